"""Simulate greedy routing over ideal and damaged tables by Monte Carlo.

No routing table is built. Greedy routing over ideal tables meets only random contacts of
nested subtrees, so its hops can be drawn one after the other. For damaged tables, only the
contacts of the nodes on the route are drawn.
"""

from __future__ import annotations

import math
from random import Random

import numpy as np

__all__ = ["gain_bits", "greedy_hops", "hops_formula", "static_resilience"]


def gain_bits(k: int) -> float:
    """Return how many bits a hop gains: 1 + sum over j >= 1 of 1 - (1 - 2^-j)^k."""
    return 1 + sum(1 - (1 - 0.5**j) ** k for j in range(1, 200))


def hops_formula(nodes: int, k: int) -> float:
    """Return log2(N)/2 for k = 1, else about (log2 N - log2 k)/b_k + 1.

    The second formula is 2 to 10 % too high, so compare simulations with :func:`greedy_hops`.
    """
    if k == 1:
        return math.log2(nodes) / 2
    return (math.log2(nodes) - math.log2(k)) / gain_bits(k) + 1


def greedy_hops(nodes: int, k: int, *, trials: int, rng: np.random.Generator) -> float:
    """Return the mean number of hops from a random node to another one.

    Each hop leads to the contact closest to the target, out of k random nodes of the bucket
    that the target belongs to. A bucket with at most k members is known completely, so the
    route ends there.
    """
    return sum(_walk(nodes, k, rng) for _ in range(trials)) / trials


def _walk(nodes: int, k: int, rng: np.random.Generator) -> int:
    # Distances to the target are uniform and independent. So a node that is nearer than d is
    # nearer than e with probability e / d, and the r-th nearest of m nodes below e has the
    # distribution e * Beta(r, m - r + 1). Only the nodes on the route need to be drawn.
    here = float(rng.random())
    nearer = int(rng.binomial(nodes - 2, here))
    hops = 0
    while True:
        hops += 1
        # The target's bucket, seen from here, holds the nodes below the highest power of two.
        edge = _power_below(here)
        inside = int(rng.binomial(nearer, edge / here))
        if inside + 1 <= k:  # the target itself is one of them
            return hops
        nearest = int(rng.choice(inside + 1, k, replace=False, shuffle=False).min())
        if nearest == 0:
            return hops
        here = edge * float(rng.beta(nearest, inside - nearest + 1))
        nearer = nearest - 1


def _power_below(distance: float) -> float:
    mantissa, exponent = math.frexp(distance)
    return math.ldexp(0.5, exponent) if mantissa else 0.0


def static_resilience(
    bits: int, k: int, dead: float, *, trials: int, rng: Random, distinct: bool = False
) -> float:
    """Return the fraction of greedy routes between two living nodes that arrive.

    All 2^bits ids exist, and every node has drawn k contacts for each bucket. Then a fraction
    ``dead`` of the nodes fails, and no table is repaired. A node passes the message to the
    living contact that is nearest to the target, if that contact is nearer than the node itself.

    Args:
        bits: length of an id.
        k: contacts of a bucket.
        dead: fraction of nodes that fail, from 0 to 1.
        trials: number of routes.
        rng: source of randomness.
        distinct: whether the k contacts of a bucket differ. The published figures are for
            independent draws, in which a small bucket may hold one contact twice.
    """
    arrived = 0
    for _ in range(trials):
        arrived += _arrives(bits, k, dead, rng, distinct=distinct)
    return arrived / trials


def _arrives(bits: int, k: int, dead: float, rng: Random, *, distinct: bool) -> bool:
    # Each trial has a network of its own. Only the part that the route visits is drawn.
    here = rng.randrange(1 << bits)
    target = rng.randrange(1 << bits)
    while target == here:
        target = rng.randrange(1 << bits)
    alive = {here: True, target: True}
    while here != target:
        best = here
        for contact in _contacts(here, bits, k, rng, distinct=distinct):
            if contact not in alive:
                alive[contact] = rng.random() >= dead
            if alive[contact] and contact ^ target < best ^ target:
                best = contact
        if best == here:
            return False
        here = best
    return True


def _contacts(here: int, bits: int, k: int, rng: Random, *, distinct: bool) -> list[int]:
    found: list[int] = []
    for bit in range(bits):
        size = 1 << bit  # the bucket: bit flipped, lower bits free
        first = (here ^ size) & ~(size - 1)
        if not distinct:
            found += [first + rng.randrange(size) for _ in range(k)]
        elif size <= k:
            found += range(first, first + size)
        else:
            found += [first + offset for offset in rng.sample(range(size), k)]
    return found
