"""From packets to a figure: RFC 3550's jitter, means and their confidence intervals.

What one *visit* to a cell yields is one value, since packets that follow each other within
milliseconds see the same state of the machine: only visits, minutes apart, are independent. The
mean of a cell and its interval are those of its visits (Student's t).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["Estimate", "estimate", "jitter_of_train", "rfc3550_jitter", "student_t_975"]

_GAIN: Final = 1 / 16
"""RFC 3550, section 6.4.1."""

_SETTLING_PACKETS: Final = 16
"""J starts at 0 and covers 64 % of the way in 16 packets; what comes before does not count."""

_EXACT_T: Final = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""The 97.5 % quantile for 1 to 10 degrees of freedom."""


def rfc3550_jitter(transits_ms: Sequence[float]) -> list[float]:
    """Return the interarrival jitter J after each packet but the first (RFC 3550, A.8)."""
    jitter, found = 0.0, []
    for before, after in zip(transits_ms, transits_ms[1:], strict=False):
        jitter += (abs(after - before) - jitter) * _GAIN
        found.append(jitter)
    return found


def jitter_of_train(transits_ms: Sequence[float]) -> float:
    """Return the jitter of one train: the mean of J once it has settled.

    The last J alone would forget all but some thirty packets, and be less steady for that.

    Raises:
        ValueError: the train is shorter than J takes to settle.
    """
    settled = rfc3550_jitter(transits_ms)[_SETTLING_PACKETS:]
    if not settled:
        raise ValueError(f"a train needs more than {_SETTLING_PACKETS + 1} packets.")
    return statistics.fmean(settled)


def student_t_975(degrees: int) -> float:
    """Return the quantile of Student's t for two-sided 95 %.

    Above ten degrees of freedom by the expansion of Fisher and Cornish; error below 0.001.
    """
    if degrees < 1:
        return math.inf
    if degrees <= len(_EXACT_T):
        return _EXACT_T[degrees - 1]
    z = statistics.NormalDist().inv_cdf(0.975)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / degrees + second / degrees**2


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean, the half-width of its 95 % interval, and the standard deviation of the values."""

    mean: float
    half_width: float
    deviation: float
    count: int

    @property
    def low(self) -> float:
        """The lower end of the interval."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """The upper end of the interval."""
        return self.mean + self.half_width


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean of independent values with its interval; infinite for a single one.

    Raises:
        ValueError: there are none.
    """
    if not values:
        raise ValueError("there is nothing to estimate from.")
    mean = statistics.fmean(values)
    if len(values) == 1:
        return Estimate(mean, math.inf, 0.0, 1)
    deviation = statistics.stdev(values)
    half_width = student_t_975(len(values) - 1) * deviation / math.sqrt(len(values))
    return Estimate(mean, half_width, deviation, len(values))
