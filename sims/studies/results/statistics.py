"""Compute means with confidence intervals over seeds.

The events of one run share an overlay, so they are not independent. Runs with different seeds
are independent. So each run gives one number per statistic, and these numbers are the sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from sims.special import student_t_95

__all__ = [
    "Estimate",
    "bootstrap_estimate",
    "share_estimate",
    "t_estimate",
    "wilson_interval",
]

CONFIDENCE: Final = 0.95
_NORMAL_QUANTILE: Final = 1.959964
_RESAMPLES: Final = 2000
_BOOTSTRAP_SEED: Final = (
    20_110_912  # any constant will do; it is fixed so that the same numbers give the same interval
)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds with its 95 % confidence interval.

    Attributes:
        mean: mean of the seeds' values; NaN if there are none.
        low, high: ends of the interval; NaN if there are fewer than two seeds.
        sd: sample standard deviation over the seeds; NaN if there are fewer than two.
        n: number of seeds that have a value.
    """

    mean: float
    low: float
    high: float
    sd: float
    n: int

    def possible(self, highest: float) -> Estimate:
        """Limit the interval to possible values, from 0 to ``highest``.

        The coverage does not change, because the true value is within these limits.
        """
        return replace(self, low=_at_least(self.low, 0.0), high=-_at_least(-self.high, -highest))

    def plain(self) -> dict[str, float | int | None]:
        """Return the estimate for JSON, with None for NaN, which JSON does not have."""
        return {
            "mean": _or_none(self.mean),
            "ci95_low": _or_none(self.low),
            "ci95_high": _or_none(self.high),
            "sd": _or_none(self.sd),
            "n": self.n,
        }


def t_estimate(values: Sequence[float]) -> Estimate:
    """Return the mean with the interval of Student's t distribution."""
    mean, sd, n = _moments(values)
    half = student_t_95(n - 1) * sd / math.sqrt(n) if n > 1 else math.nan
    return Estimate(mean, mean - half, mean + half, sd, n)


def share_estimate(shares: Sequence[float], counts: Sequence[int]) -> Estimate:
    """Return the mean of the seeds' fractions, with an interval that is wider than 0.

    The result is the union of Student's interval over the seeds and Wilson's interval (1927)
    over all events. If every event of every seed was a yes, the seeds do not differ and
    Student's interval has no width, although the true fraction may be below 1.

    Values between 0 and 1, such as the share of clients with a path, vary at most as much as
    events with the same mean. Samples that follow each other are alike, so for them Wilson's
    interval is the shortest that can be right.

    Args:
        shares: fraction of each seed, 0 to 1.
        counts: number of events or samples of each seed.
    """
    found = t_estimate(shares)
    known = [(p, n) for p, n in zip(shares, counts, strict=True) if math.isfinite(p) and n]
    if found.n < 2 or not known:
        return found
    total = sum(n for _, n in known)
    low, high = wilson_interval(math.fsum(p * n for p, n in known), total)
    return replace(found, low=min(found.low, low), high=max(found.high, high))


def wilson_interval(yes: float, events: int) -> tuple[float, float]:
    """Return Wilson's 95 % score interval of the fraction ``yes / events``, events >= 1."""
    share, z2 = yes / events, _NORMAL_QUANTILE**2
    middle = (share + z2 / (2 * events)) / (1 + z2 / events)
    half = (
        _NORMAL_QUANTILE
        * math.sqrt(max(share * (1 - share), 0.0) / events + z2 / (4 * events**2))
        / (1 + z2 / events)
    )
    return max(0.0, middle - half), min(1.0, middle + half)


def bootstrap_estimate(values: Sequence[float]) -> Estimate:
    """Return the mean with a percentile bootstrap interval over the seeds.

    It is used for quantiles, because their distribution over seeds is skewed and Student's
    interval is symmetric.
    """
    mean, sd, n = _moments(values)
    if n < 2:
        return Estimate(mean, math.nan, math.nan, sd, n)
    sample = np.asarray([v for v in values if math.isfinite(v)])
    draws = np.random.default_rng(_BOOTSTRAP_SEED).integers(0, n, size=(_RESAMPLES, n))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(sample[draws].mean(axis=1), [tail, 1 - tail])
    return Estimate(mean, float(low), float(high), sd, n)


def _moments(values: Sequence[float]) -> tuple[float, float, int]:
    sample = [value for value in values if math.isfinite(value)]
    n = len(sample)
    mean = math.fsum(sample) / n if n else math.nan
    squares = math.fsum((value - mean) ** 2 for value in sample)
    return mean, math.sqrt(squares / (n - 1)) if n > 1 else math.nan, n


def _at_least(value: float, bound: float) -> float:
    return bound if value < bound else value  # NaN stays


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
