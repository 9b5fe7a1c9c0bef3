"""Compute RFC 3550's jitter, means and their confidence intervals.

One *visit* to a cell gives one value. Packets within milliseconds see the same state of the
machine, and only visits, which are minutes apart, are independent. The mean of a cell is the mean
of its visits, with a fifth of them trimmed at either end. The reason is that a host which takes the
processor away for some milliseconds affects whole visits. The interval is that of Tukey and
McLaughlin for trimmed means: Student's t over the Winsorised deviation.
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
"""J starts at 0 and needs 16 packets for 64 % of the way, so earlier packets do not count."""

_FENCE: Final = 3.0

_TRIMMED: Final = 0.2
"""The fraction of the values that is omitted at either end."""


def rfc3550_jitter(transits_ms: Sequence[float]) -> list[float]:
    """Return the interarrival jitter J after each packet except the first (RFC 3550, A.8)."""
    jitter, found = 0.0, []
    for before, after in itertools.pairwise(transits_ms):
        jitter += (abs(after - before) - jitter) * _GAIN
        found.append(jitter)
    return found


def jitter_of_train(transits_ms: Sequence[float]) -> float:
    """Return the jitter of one train: the mean of J after it has settled.

    The last value of J depends only on some thirty packets, so it varies more.

    Raises:
        ValueError: the train is too short for J to settle.
    """
    settled = rfc3550_jitter(transits_ms)[_SETTLING_PACKETS:]
    if not settled:
        raise ValueError(f"a train needs more than {_SETTLING_PACKETS + 1} packets.")
    return statistics.fmean(settled)


def without_held_up(transits_ms: Sequence[float]) -> list[float]:
    """Return a train without the packets that this host delayed.

    If the host takes the processor away for a moment, it adds milliseconds to packets in transit,
    perhaps to one in thirty. RFC 3550's mean of differences would then describe only the host. Such
    packets are beyond Tukey's outer fence (upper quartile plus three interquartile ranges). Without
    disturbance only one packet in a million is beyond it.
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

    With fewer than five values nothing is trimmed, so it is the mean with Student's interval. The
    interval of a single value is infinite.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("there are no values to estimate from.")
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
