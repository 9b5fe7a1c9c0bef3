"""From packets to a figure: RFC 3550's jitter, means and their confidence intervals.

What one *visit* to a cell yields is one value, since packets that follow each other within
milliseconds see the same state of the machine: only visits, minutes apart, are independent. The
mean of a cell is that of its visits, a fifth of them trimmed off either end, since a host that
takes the processor away for some milliseconds spoils whole visits. Its interval is Tukey and
McLaughlin's for trimmed means: Student's t over the Winsorised deviation.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sims.special import student_t_95

__all__ = [
    "SampleMean",
    "estimate",
    "jitter_of_train",
    "rfc3550_jitter",
    "without_held_up",
]

_GAIN: Final = 1 / 16
"""RFC 3550, section 6.4.1."""

_SETTLING_PACKETS: Final = 16
"""J starts at 0 and covers 64 % of the way in 16 packets; what comes before does not count."""

_FENCE: Final = 3.0

_TRIMMED: Final = 0.2
"""The part of the values that is left out at either end."""


def rfc3550_jitter(transits_ms: Sequence[float]) -> list[float]:
    """Return the interarrival jitter J after each packet but the first (RFC 3550, A.8)."""
    jitter, found = 0.0, []
    for before, after in itertools.pairwise(transits_ms):
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


def without_held_up(transits_ms: Sequence[float]) -> list[float]:
    """Return a train without the packets that this host held up.

    A host that takes the processor away for a moment adds milliseconds to whatever is under way,
    to one packet in thirty perhaps, and RFC 3550's mean of differences is then about the host
    alone. These lie beyond Tukey's outer fence (upper quartile and three interquartile ranges),
    which one packet in a million of an undisturbed train would pass.
    """
    lower, _, upper = statistics.quantiles(transits_ms, n=4)
    fence = upper + _FENCE * (upper - lower)
    return [transit for transit in transits_ms if transit <= fence]


@dataclass(frozen=True, slots=True)
class SampleMean:
    """A mean, the half-width of its 95 % interval, and the standard deviation of all values."""

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


def estimate(values: Sequence[float]) -> SampleMean:
    """Return the trimmed mean of independent values with its interval.

    With fewer than five values nothing is trimmed, and this is the mean with Student's interval;
    that of a single value is infinite.

    Raises:
        ValueError: there are none.
    """
    if not values:
        raise ValueError("there is nothing to estimate from.")
    count = len(values)
    cut = int(_TRIMMED * count)
    ordered = sorted(values)
    kept = ordered[cut : count - cut]
    mean = statistics.fmean(kept)
    if count == 1:
        return SampleMean(mean, math.inf, 0.0, 1)
    winsorised = [kept[0]] * cut + kept + [kept[-1]] * cut
    error = statistics.stdev(winsorised) * math.sqrt(count) / len(kept)
    half_width = student_t_95(len(kept) - 1) * error
    return SampleMean(mean, half_width, statistics.stdev(values), count)
