"""What ideal routing tables hold: bucket occupancy and knowledge of one's neighbourhood.

Ids are uniform and independent, so how many of the N - 1 others share exactly i leading bits
with a node is binomial, and everything follows by counting. Exact; no simulation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from sims.theory.special import binomial_pmf

__all__ = ["bucket_occupancy", "neighbourhood_knowledge"]

_NEGLIGIBLE = 1e-12


def bucket_occupancy(nodes: int, bucket: int, k: int) -> float:
    """Return the mean number of contacts in a bucket, E[min(Bin(N-1, 2^-(i+1)), k)].

    Args:
        nodes: N, the size of the overlay.
        bucket: i, the leading bits that its members share with the owner.
        k: the bucket's room.
    """
    others = nodes - 1
    share = 0.5 ** (bucket + 1)
    missing = sum((k - count) * binomial_pmf(count, others, share) for count in range(k))
    return k - missing


def neighbourhood_knowledge(nodes: int, k: int, at_least: int) -> float:
    """Return the share of nodes that know at least ``at_least`` of their k closest.

    A node knows everybody in the buckets with at most k candidates. Of the one bucket at
    the boundary, with more than k candidates, it knows a random k. With c nodes closer than
    that bucket and m in it, k - c of the k closest lie in it, and how many of these are
    among the k known is hypergeometric.
    """
    if not 0 <= at_least <= k or k >= nodes:
        raise ValueError("at_least must lie between 0 and k, and k below the number of nodes")
    share = sum(
        probability * _knows_at_least(at_least - closer, k - closer, members, k)
        for closer, members, probability in _boundaries(nodes, k)
    )
    return min(1.0, share)  # not even by the rounding of a thousand terms


def _boundaries(nodes: int, k: int) -> Iterator[tuple[int, int, float]]:
    """Yield (closer, members, probability) of the bucket in which the k-th closest lies."""
    others = nodes - 1
    bucket = 0
    weight = 1.0
    while weight > _NEGLIGIBLE and bucket < 160:
        share = 0.5 ** (bucket + 1)
        weight = 0.0
        for closer in range(k):
            # Of the others, ``closer`` share more bits than the bucket's, each with ``share``;
            # of the rest, a member of the bucket is one with share / (1 - share).
            outer = binomial_pmf(closer, others, share)
            if outer < _NEGLIGIBLE * 1e-6:
                continue
            rest = others - closer
            for members, inner in _likely(rest, share / (1 - share), k - closer):
                probability = outer * inner
                weight += probability
                yield closer, members, probability
        weight = max(weight, 1.0 if bucket < math.log2(nodes / k) else 0.0)
        bucket += 1


def _likely(trials: int, share: float, least: int) -> Iterator[tuple[int, float]]:
    mean = trials * min(1.0, share)
    spread = 8 * math.sqrt(mean * max(0.0, 1 - share)) + 30
    for count in range(max(least, int(mean - spread)), min(trials, int(mean + spread)) + 1):
        yield count, binomial_pmf(count, trials, share)


def _knows_at_least(wanted: int, near: int, members: int, k: int) -> float:
    """Return P(at least ``wanted`` of the ``near`` closest of ``members`` are among k kept)."""
    if wanted <= 0 or members <= k:
        return 1.0
    return sum(
        math.comb(near, known) * math.comb(members - near, k - known)
        for known in range(wanted, near + 1)
    ) / math.comb(members, k)
