"""Test for Sybils near a key, and estimate the size of an overlay from distances of ids.

The normalised distance d_k of the k-th closest of N uniform ids obeys 2 N d_k ~ chi^2(2k).
So N is about (k - 1) / d_k. If the distance is too small for the known N, some of the ids
were probably chosen to be near the key.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sims.special import chi_squared_cdf

__all__ = [
    "eclipse_power",
    "eclipse_suspicion",
    "estimate_deviation",
    "estimate_size",
]


def eclipse_suspicion(distance: float, nodes: float, k: int) -> float:
    """Return the probability that the k-th closest of N honest ids is within ``distance``.

    ``distance`` is a fraction of the id space, from 0 to 1.
    """
    return chi_squared_cdf(2 * nodes * distance, 2 * k)


def estimate_size(distances: Sequence[float], k: int) -> float:
    """Return the size estimate (k - 1) / d_k, averaged over lookups of independent keys."""
    return (k - 1) * sum(1 / distance for distance in distances) / len(distances)


def estimate_deviation(k: int, nodes: float = math.inf, lookups: int = 1) -> float:
    """Return the relative standard deviation of :func:`estimate_size`.

    The k-th smallest of N uniform distances is Beta(k, N - k + 1). Its inverse has the relative
    standard deviation sqrt((N - k + 1) / (N (k - 2))), which for large N and one lookup is
    1/sqrt(k - 2).
    """
    left = 1.0 if math.isinf(nodes) else (nodes - k + 1) / nodes
    return math.sqrt(left / ((k - 2) * lookups))


def eclipse_power(
    nodes: int, k: int, sybils: int, level: float, *, trials: int, rng: np.random.Generator
) -> float:
    """Return how often the test detects ``sybils`` ids that are nearer than all honest ids.

    If s Sybils are nearer than the closest honest node, the k-th closest id is the (k-s)-th
    closest honest id, or a Sybil if s >= k. Its distance is drawn from order statistics.

    Args:
        nodes: number of honest nodes.
        k: which closest id the test looks at.
        sybils: number of Sybils.
        level: significance level of the test; a lower suspicion raises the alarm.
        trials: number of Monte Carlo trials.
        rng: source of randomness.
    """
    rank = k - sybils
    if rank <= 0:
        # All k are Sybils, each nearer than the nearest honest id.
        distances = rng.beta(1, nodes, trials) * rng.random(trials)
    else:
        distances = rng.beta(rank, nodes - rank + 1, trials)
    suspicions = [eclipse_suspicion(float(distance), nodes, k) for distance in distances]
    return sum(suspicion < level for suspicion in suspicions) / trials
