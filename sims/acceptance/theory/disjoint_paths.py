"""Compute the success of disjoint paths among malicious nodes, and timeouts of rounds."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

__all__ = ["disjoint_path_success", "mean_disjoint_path_success", "round_times_out"]


def disjoint_path_success(malicious: float, length: int, paths: int) -> float:
    """Return the probability that at least one disjoint path meets only honest nodes.

    For d paths of i nodes and a malicious fraction f this is 1 - (1 - (1 - f)^i)^d
    (S/Kademlia, section 4.4).
    """
    return float(1 - (1 - (1 - malicious) ** length) ** paths)


def mean_disjoint_path_success(malicious: float, runs: Sequence[Sequence[int]]) -> float:
    """Return the mean of :func:`disjoint_path_success` over runs with paths of unequal length.

    ``runs`` has one entry per run: the lengths of its paths. A run fails if every path meets
    a malicious node, which has the probability of the product of 1 - (1 - f)^i over its paths.
    """
    return fmean(1 - _all_fail(malicious, lengths) for lengths in runs)


def _all_fail(malicious: float, lengths: Sequence[int]) -> float:
    product = 1.0
    for length in lengths:
        product *= 1 - (1 - malicious) ** length
    return product


def round_times_out(dead: float, alpha: int) -> float:
    """Return the probability that a round of ``alpha`` calls includes a dead peer.

    Such a round lasts until the timeout of that call.
    """
    return float(1 - (1 - dead) ** alpha)
