"""The test for Sybils around a key, and the size of an overlay from its densest corner.

The normalised distance d_k of the k-th closest of N uniform ids obeys 2 N d_k ~ chi^2(2k).
So N is about (k - 1) / d_k, and a distance that is too small for the known N betrays ids
that were made for this place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sims.theory.special import chi_squared_cdf

__all__ = [
    "eclipse_power",
    "eclipse_suspicion",
    "estimate_deviation",
    "estimate_size",
]


def eclipse_suspicion(distance: float, nodes: float, k: int) -> float:
    """Return how likely the k-th closest of N honest ids is as close as ``distance`` or closer.

    ``distance`` is a share of the id space, from 0 to 1.
    """
    return chi_squared_cdf(2 * nodes * distance, 2 * k)


def estimate_size(distances: Sequence[float], k: int) -> float:
    """Return the size estimate (k - 1) / d_k, averaged over lookups of independent keys."""
    return (k - 1) * sum(1 / distance for distance in distances) / len(distances)


def estimate_deviation(k: int, nodes: float = math.inf, lookups: int = 1) -> float:
    """Return the relative standard deviation of that estimate.

    The k-th smallest of N uniform shares is Beta(k, N - k + 1), of which 1/d has this one:
    sqrt((N - k + 1) / (N (k - 2))). In a large overlay that is 1/sqrt(k - 2) for one lookup.
    """
    left = 1.0 if math.isinf(nodes) else (nodes - k + 1) / nodes
    return math.sqrt(left / ((k - 2) * lookups))


def eclipse_power(
    nodes: int, k: int, sybils: int, level: float, *, trials: int, rng: np.random.Generator
) -> float:
    """Return by Monte Carlo how often ``sybils`` ids nearer than all honest ones are noticed.

    With s Sybils nearer than the closest honest node the k-th closest id is the (k-s)-th
    closest honest one, or a Sybil if s >= k. Drawn from order statistics, with no shared code.
    """
    rank = k - sybils
    if rank <= 0:
        # All k are Sybils, each nearer than the nearest honest id.
        distances = rng.beta(1, nodes, trials) * rng.random(trials)
    else:
        distances = rng.beta(rank, nodes - rank + 1, trials)
    suspicions = [eclipse_suspicion(float(distance), nodes, k) for distance in distances]
    return sum(suspicion < level for suspicion in suspicions) / trials
