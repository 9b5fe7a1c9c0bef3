"""Reduce the observations of one run to what statistics, figures and tables need."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from sims.observations import Observations
from sims.scenario.expectation import QUANTILES, Expectation
from sims.scenario.scenario import Scenario
from sims.studies.results.survival import survival_quantiles

__all__ = ["BINS", "Condensed", "Key", "bin_width_s", "condense"]

BINS: Final = 48
"""Number of equal time intervals into which a run is divided for curves."""

Key = tuple[str, str]
"""Metric and label."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Condensed:
    """The values of one metric and label in one run, after the warm-up.

    Attributes:
        count, mean, sd, total, last: of the values; NaN where nothing was measured.
        quantiles: at :data:`sims.scenario.expectation.QUANTILES`.
        curve: mean of the values in each of :data:`BINS` intervals, the warm-up's included.
    """

    count: int
    mean: float
    sd: float
    total: float
    last: float
    quantiles: tuple[float, ...]
    curve: tuple[float, ...]

    def statistic(self, asked: Expectation) -> float:
        """Return the statistic that an expectation names; NaN if nothing was measured."""
        if asked.quantile is not None:
            return self.quantile(asked.quantile)
        found: dict[str, float] = {
            "mean": self.mean,
            "sd": self.sd,
            "min": self.quantiles[0],
            "max": self.quantiles[-1],
            "count": float(self.count),
            "sum": self.total,
            "last": self.last,
        }
        return found[asked.statistic]

    def quantile(self, share: float) -> float:
        """Return one of the kept quantiles."""
        return self.quantiles[QUANTILES.index(share)]


def bin_width_s(scenario: Scenario) -> float:
    """Return the simulated time that one point of a curve covers."""
    return scenario.total_s / BINS


def condense(observations: Observations, scenario: Scenario) -> Mapping[Key, Condensed]:
    """Reduce a run's observations, metric by metric."""
    found = {
        key: _condensed(times_s, values, scenario)
        for key, times_s, values in observations.columns()
    }
    sessions = _sessions(observations)
    return found if sessions is None else {**found, ("session_km_s", ""): sessions}


def _sessions(observations: Observations) -> Condensed | None:
    """Return the lengths of sessions, including those that outlast the run.

    The result is None if the run recorded no session that outlasts it.
    """
    columns = {key: (times, values) for key, times, values in observations.columns()}
    if ("session_cut_s", "") not in columns:
        return None
    nothing = np.empty(0), np.empty(0)
    ended = columns.get(("session_on_s", ""), nothing)[1]
    cut = columns["session_cut_s", ""][1]
    quantiles = survival_quantiles(ended, cut, QUANTILES)
    unknown = (math.nan,) * BINS
    count = len(ended) + len(cut)
    return Condensed(count, math.nan, math.nan, math.nan, math.nan, quantiles, unknown)


def _condensed(times_s: Floats, values: Floats, scenario: Scenario) -> Condensed:
    finite = np.isfinite(times_s) & np.isfinite(values)
    times_s, values = times_s[finite], values[finite]
    curve = _curve(times_s, values, scenario)
    counted = values[times_s >= scenario.warm_up_s]
    if not len(counted):
        return Condensed(0, math.nan, math.nan, 0.0, math.nan, _NO_QUANTILES, curve)
    return Condensed(
        len(counted),
        float(counted.mean()),
        float(counted.std(ddof=1)) if len(counted) > 1 else math.nan,
        float(counted.sum()),
        float(counted[-1]),
        tuple(np.quantile(counted, QUANTILES).tolist()),
        curve,
    )


_NO_QUANTILES: Final = (math.nan,) * len(QUANTILES)


def _curve(times_s: Floats, values: Floats, scenario: Scenario) -> tuple[float, ...]:
    places = np.clip((times_s / bin_width_s(scenario)).astype(np.int64), 0, BINS - 1)
    counts = np.bincount(places, minlength=BINS)
    sums = np.bincount(places, weights=values, minlength=BINS)
    with np.errstate(invalid="ignore"):
        return tuple((sums / np.where(counts, counts, np.nan)).tolist())
