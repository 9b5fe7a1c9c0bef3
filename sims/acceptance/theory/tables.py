"""Compute what ideal routing tables hold: bucket occupancy and knowledge of near nodes.

Ids are uniform and independent. So the number of other nodes that share exactly i leading
bits with a node is binomial, and all results here follow exactly, without simulation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from sims.special import binomial_pmf

__all__ = ["bucket_occupancy", "neighbourhood_knowledge"]

_NEGLIGIBLE = 1e-12


def bucket_occupancy(nodes: int, bucket: int, k: int) -> float:
    """Return the mean number of contacts in a bucket, E[min(Bin(N-1, 2^-(i+1)), k)].

    Args:
        nodes: N, the size of the overlay.
        bucket: i, the number of leading bits that its members share with the owner.
        k: the capacity of a bucket.
    """
    others = nodes - 1
    share = 0.5 ** (bucket + 1)
    missing = sum((k - count) * binomial_pmf(count, others, share) for count in range(k))
    return k - missing


def neighbourhood_knowledge(nodes: int, k: int, at_least: int) -> float:
    """Return the fraction of nodes that know at least ``at_least`` of their k closest nodes.

    A node knows all members of buckets with at most k candidates. One bucket at the boundary
    has more candidates, of which the node knows k at random. If c nodes are closer than that
    bucket and m are in it, k - c of the k closest nodes are in it. The number of these that
    the node knows is hypergeometric.
    """
    if not 0 <= at_least <= k or k >= nodes:
        raise ValueError("at_least must lie between 0 and k, and k below the number of nodes")
    share = sum(
        probability * _knows_at_least(at_least - closer, k - closer, members, k)
        for closer, members, probability in _boundaries(nodes, k)
    )
    return min(1.0, share)  # rounding errors of a thousand terms may exceed 1


def _boundaries(nodes: int, k: int) -> Iterator[tuple[int, int, float]]:
    """Yield (closer, members, probability) of the bucket in which the k-th closest lies."""
    others = nodes - 1
    bucket = 0
    weight = 1.0
    while weight > _NEGLIGIBLE and bucket < 160:
        share = 0.5 ** (bucket + 1)
        weight = 0.0
        for closer in range(k):
            # Each other node shares more bits than the bucket's members with probability
            # ``share``. Each remaining node is a member with probability share / (1 - share).
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
    """Return the probability that k random members include ``wanted`` of the ``near`` closest."""
    if wanted <= 0 or members <= k:
        return 1.0
    return sum(
        math.comb(near, known) * math.comb(members - near, k - known)
        for known in range(wanted, near + 1)
    ) / math.comb(members, k)
