"""Success of disjoint paths among liars, and the time that a crawl in rounds takes."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

__all__ = ["disjoint_path_success", "mean_disjoint_path_success", "round_times_out"]


def disjoint_path_success(malicious: float, length: int, paths: int) -> float:
    """Return 1 - (1 - (1 - f)^i)^d: one of d independent paths of i nodes is all honest."""
    return float(1 - (1 - (1 - malicious) ** length) ** paths)


def mean_disjoint_path_success(malicious: float, runs: Sequence[Sequence[int]]) -> float:
    """Return the mean over runs, each given as the lengths of its paths.

    With paths of unequal length a run fails if each path meets a liar: the product of
    1 - (1 - f)^i over its paths, which for equal lengths is the formula above.
    """
    return fmean(1 - _all_fail(malicious, lengths) for lengths in runs)


def _all_fail(malicious: float, lengths: Sequence[int]) -> float:
    product = 1.0
    for length in lengths:
        product *= 1 - (1 - malicious) ** length
    return product


def round_times_out(dead: float, alpha: int) -> float:
    """Return the probability that a round of alpha calls waits for a dead peer's timeout."""
    return float(1 - (1 - dead) ** alpha)
