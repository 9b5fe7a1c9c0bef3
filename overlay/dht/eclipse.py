"""The eclipse alarm: detect by a chi-squared test that a region of the key space is too dense.

Node ids are hashes, so the ids of N honest nodes are uniform. Let d be the distance of the k-th
nearest node to a target, as a fraction of the key space. Then 2 N d has a chi-squared distribution
with 2 k degrees of freedom, because d is the k-th point of a Poisson process. It follows:

* (k - 1) / d estimates N, with a relative standard deviation of 1 / sqrt(k - 2).
* If P(chi-squared <= 2 N d) is below 1 %, k nodes are unlikely to be that close by chance. An
  attacker may have generated keys until enough ids were near the target, in order to surround
  a node or to hide a record (as was done in IPFS, 2023).

N is estimated from other lookups and from crawls, not from the lookup under test. It is the median
of the single estimates. With a mean, one target that is eclipsed at a millionth of the usual
distance would make N so large that the alarm is never raised again.

Reasons: docs/decisions/0025.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from statistics import median
from typing import Final

from overlay.addresses import NODE_ID_BYTES, NodeId
from overlay.dht.messages import Contact
from overlay.dht.routing import distance

__all__ = [
    "MAX_SAMPLES",
    "MAX_SUSPICIONS",
    "MIN_SAMPLES",
    "SIGNIFICANCE",
    "EclipseWatch",
    "chance_of_density",
    "chi_squared_cdf",
    "estimated_size",
    "kth_nearest_distance",
    "nearest_numbers",
]

SIGNIFICANCE: Final = 0.01
"""Significance level: 1 % of regular regions are suspected by chance, which costs datagrams."""

MIN_SAMPLES: Final = 16
"""Number of other targets that a test needs; the size is then known to about 7 % (k = 20)."""

MAX_SAMPLES: Final = 64
MAX_SUSPICIONS: Final = 64
_CENSUS_TARGETS: Final = 32
_SAMPLE_LIFE_S: Final = 2 * 3600.0
_SUSPICION_LIFE_S: Final = 2 * 3600.0
_LEAST_K: Final = 4
"""With fewer near nodes, the deviation of an estimate from one target is 70 % or more."""

_ID_BITS: Final = 8 * NODE_ID_BYTES
_SPACE: Final = 2.0**_ID_BITS


def chi_squared_cdf(x: float, degrees: int) -> float:
    """Return P(X <= x) of a chi-squared variable with an even number of degrees of freedom.

    For 2 k degrees it is the probability that a Poisson variable with mean x / 2 is at least k,
    which is a finite sum. The smaller tail is summed, for precision.

    Raises:
        ValueError: ``degrees`` is odd or not positive.
    """
    if degrees < 2 or degrees % 2:
        raise ValueError("this closed form needs an even, positive number of degrees of freedom")
    k, mean = degrees // 2, x / 2
    if mean <= 0:
        return 0.0
    if mean >= k:
        return 1.0 - math.fsum(_poisson(count, mean) for count in range(k))
    total, count = 0.0, k
    while (term := _poisson(count, mean)) > total * 1e-17:
        total, count = total + term, count + 1
    return total


def _poisson(count: int, mean: float) -> float:
    return math.exp(count * math.log(mean) - mean - math.lgamma(count + 1))


def estimated_size(share: float, k: int) -> float:
    """Return the number of nodes if the k-th nearest is at ``share`` of the key space."""
    return (k - 1) / share


def chance_of_density(size: float, share: float, k: int) -> float:
    """Return the probability that k of ``size`` nodes are within ``share`` by chance."""
    return chi_squared_cdf(2 * size * share, 2 * k)


def nearest_numbers(ordered: Sequence[int], target: int, count: int) -> list[int]:
    """Return up to ``count`` ids nearest to ``target``, nearest first, from ascending ids.

    Ids that share the first bits of the target are adjacent, and they are nearer than all others.
    So only the smallest such group with enough members needs to be examined.
    """
    low, high = 0, _ID_BITS  # bits that the group shares: enough members at low, too few above
    first, last = 0, len(ordered)
    while low < high:
        bits = (low + high + 1) // 2
        start = target >> (_ID_BITS - bits) << (_ID_BITS - bits)
        left = bisect_left(ordered, start)
        right = bisect_left(ordered, start + (1 << (_ID_BITS - bits)))
        if right - left >= count:
            low, first, last = bits, left, right
        else:
            high = bits - 1
    return sorted(ordered[first:last], key=lambda number: number ^ target)[:count]


def kth_nearest_distance(ordered: Sequence[int], target: int, k: int) -> int:
    """Return the XOR distance of the k-th nearest id; ``ids`` are ascending and at least k."""
    return nearest_numbers(ordered, target, k)[k - 1] ^ target


@dataclass(frozen=True, slots=True)
class _Sample:
    target: int
    share: float
    taken_at: float


class EclipseWatch:
    """Estimates of the size and suspicions about regions, from own lookups and crawls.

    It has at most 64 samples and 64 suspicions, each for two hours. A region is the part of the
    key space around a target in which k nodes are expected.
    """

    def __init__(self, k: int) -> None:
        self._k = k
        self._samples: deque[_Sample] = deque(maxlen=MAX_SAMPLES)
        self._suspicions: dict[int, float] = {}
        """Target of the lookup that raised it -> until when it counts."""

    def size(self, now: float, *, apart_from: NodeId | None = None) -> float | None:
        """Return the number of nodes of the overlay; None while too few targets are known.

        ``apart_from`` excludes targets whose region overlaps that of an id.
        """
        shares = [s.share for s in self._samples if now - s.taken_at < _SAMPLE_LIFE_S]
        if len(shares) < MIN_SAMPLES:
            return None
        if apart_from is not None:
            radius = 2 * median(shares) * _SPACE
            place = int.from_bytes(apart_from, "big")
            shares = [
                s.share
                for s in self._samples
                if now - s.taken_at < _SAMPLE_LIFE_S and s.target ^ place > radius
            ]
            if len(shares) < MIN_SAMPLES:
                return None
        # The median of d is (k - 1/3) / N but for a thousandth.
        return (self._k - 1 / 3) / median(shares)

    def region(self, now: float) -> int:
        """Return the distance within which k nodes are expected; 0 while the size is unknown."""
        size = self.size(now)
        return 0 if size is None else min(int(self._k / size * _SPACE), (1 << _ID_BITS) - 1)

    def looked_up(self, target: NodeId, nearest: Sequence[Contact], now: float) -> float | None:
        """Test a finished lookup by the nodes that answered, nearest first.

        Returns:
            The probability of this density by chance if it raises a new suspicion, else None.
        """
        if len(nearest) < self._k or self._k < _LEAST_K:
            return None
        share = (distance(nearest[self._k - 1].node_id, target) + 1) / _SPACE
        size = self.size(now, apart_from=target)
        self._add(_Sample(int.from_bytes(target, "big"), share, now))
        if size is None:
            return None
        chance = chance_of_density(size, share, self._k)
        if chance >= SIGNIFICANCE:
            self._suspicions.pop(int.from_bytes(target, "big"), None)
            return None
        is_new = not self.suspects(target, now)
        self._suspect(target, now)
        return chance if is_new else None

    def samples(self, now: float) -> int:
        """Return the number of targets on which the estimate of the size rests, at most 64."""
        return sum(now - sample.taken_at < _SAMPLE_LIFE_S for sample in self._samples)

    def crawled(self, node_ids: Iterable[NodeId], rng: Random, now: float) -> None:
        """Take samples at random targets from all nodes that answered a crawl."""
        ordered = sorted(int.from_bytes(node_id, "big") for node_id in node_ids)
        if len(ordered) < self._k or self._k < _LEAST_K:
            return
        for _ in range(_CENSUS_TARGETS):
            target = rng.getrandbits(_ID_BITS)
            share = (kth_nearest_distance(ordered, target, self._k) + 1) / _SPACE
            self._samples.append(_Sample(target, share, now))

    def suspects(self, key: NodeId, now: float) -> bool:
        """Tell whether ``key`` is in a suspected region."""
        reach = self.region(now)
        place = int.from_bytes(key, "big")
        return any(
            now < until and place ^ target <= reach for target, until in self._suspicions.items()
        )

    def suspected_regions(self, now: float) -> int:
        """Return the number of suspected regions."""
        return sum(now < until for until in self._suspicions.values())

    def _add(self, sample: _Sample) -> None:
        """Keep one sample per region, because repeated lookups of one id are not independent."""
        kept = [s for s in self._samples if s.target ^ sample.target > sample.share * _SPACE]
        self._samples = deque([*kept, sample], maxlen=MAX_SAMPLES)

    def _suspect(self, target: NodeId, now: float) -> None:
        self._suspicions = {t: until for t, until in self._suspicions.items() if now < until}
        self._suspicions.pop(int.from_bytes(target, "big"), None)
        if len(self._suspicions) >= MAX_SUSPICIONS:
            del self._suspicions[next(iter(self._suspicions))]
        self._suspicions[int.from_bytes(target, "big")] = now + _SUSPICION_LIFE_S
