"""Compute curves over seeds with pointwise confidence bands, for figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sims.scenario.expectation import QUANTILES
from sims.scenario.scenario import Scenario
from sims.special import student_t_95
from sims.studies.results.condensed import BINS, Key, bin_width_s
from sims.studies.results.record import RunRecord

__all__ = ["Band", "count_band", "over_time", "quantile_band"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Band:
    """A curve: mean over the seeds and its 95 % interval at each place.

    ``low`` and ``high`` are NaN where fewer than two seeds have a value.
    """

    x: Floats
    mean: Floats
    low: Floats
    high: Floats

    def where_known(self) -> Band:
        """Remove places without a value, so that the line of a figure has no gap there."""
        known = np.isfinite(self.mean)
        return Band(self.x[known], self.mean[known], self.low[known], self.high[known])


def over_time(scenario: Scenario, runs: Sequence[RunRecord], key: Key) -> Band:
    """Return a metric over simulated time in hours, counted from the end of the warm-up."""
    middles_s = (np.arange(BINS) + 0.5) * bin_width_s(scenario) - scenario.warm_up_s
    curves = [run.values[key].curve for run in runs if key in run.values]
    return _band(middles_s / 3600, np.asarray(curves))


def quantile_band(runs: Sequence[RunRecord], key: Key) -> Band:
    """Return the quantiles of a metric, from 0 to 1, each with its interval over the seeds."""
    found = [run.values[key].quantiles for run in runs if key in run.values]
    return _band(np.asarray(QUANTILES), np.asarray(found))


def count_band(runs: Sequence[RunRecord], key: Key) -> Band:
    """Return, for every whole number, the fraction of values up to it, with its interval."""
    found = [run.values[key].quantiles for run in runs if key in run.values]
    rows = [np.asarray(each) for each in found if np.isfinite(each[-1])]
    if not rows:
        return _band(np.asarray([0.0]), np.asarray([]))
    last = int(max(row[-1] for row in rows))
    places = np.arange(max(0, int(min(row[0] for row in rows)) - 1), last + 1, dtype=np.float64)
    shares = np.asarray(QUANTILES)
    cumulative = [
        # The largest kept quantile that does not exceed the number; none below the smallest value.
        np.asarray([shares[row <= place].max(initial=0.0) for place in places])
        for row in rows
    ]
    return _band(places, np.asarray(cumulative))


def _band(x: Floats, rows: Floats) -> Band:
    if not rows.size:
        nothing = np.full(len(x), np.nan)
        return Band(x, nothing, nothing, nothing)
    there = np.isfinite(rows)
    n = there.sum(axis=0)
    held = np.where(there, rows, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(n > 0, held.sum(axis=0) / n, np.nan)
        squares = np.where(there, (rows - mean) ** 2, 0.0).sum(axis=0)
        error = np.sqrt(squares / (n - 1) / n)
    factors = np.array([student_t_95(count - 1) for count in range(rows.shape[0] + 1)])
    half = np.where(n > 1, factors[n] * error, np.nan)
    return Band(x, mean, mean - half, mean + half)
