"""Compute the availability of nodes, and the survival of a record that is stored only once."""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = [
    "availability",
    "exponential_residual_survival",
    "online_deviation",
    "pareto_deviation",
    "record_survival",
    "weibull_deviation",
    "weibull_mean",
    "weibull_median",
    "weibull_residual_survival",
    "weibull_survival",
]

from sims.special import regularised_gamma_q


def availability(mean_on: float, mean_off: float) -> float:
    """Return the fraction of time that a node is on line (alternating renewal process)."""
    return mean_on / (mean_on + mean_off)


def online_deviation(nodes: int, share: float) -> float:
    """Return the standard deviation of the number of nodes on line, a binomial variable."""
    return math.sqrt(nodes * share * (1 - share))


def weibull_mean(scale: float, shape: float) -> float:
    """Return the mean of a Weibull variable: scale * gamma(1 + 1/shape)."""
    return scale * math.gamma(1 + 1 / shape)


def weibull_deviation(scale: float, shape: float) -> float:
    """Return the standard deviation of a Weibull variable.

    It is scale * sqrt(gamma(1 + 2/shape) - gamma(1 + 1/shape)^2).
    """
    return scale * math.sqrt(math.gamma(1 + 2 / shape) - math.gamma(1 + 1 / shape) ** 2)


def pareto_deviation(scale: float, shape: float) -> float:
    """Return the standard deviation of a Lomax variable, which is infinite for shape <= 2."""
    if shape <= 2:
        return math.inf
    return scale / (shape - 1) * math.sqrt(shape / (shape - 2))


def weibull_median(scale: float, shape: float) -> float:
    """Return the median of a Weibull variable: scale * (ln 2) ** (1/shape)."""
    return float(scale * math.log(2) ** (1 / shape))


def weibull_survival(age: float, scale: float, shape: float) -> float:
    """Return the fraction of sessions that last longer than ``age``, counted from their start."""
    return math.exp(-math.pow(age / scale, shape))


def weibull_residual_survival(age: float, scale: float, shape: float) -> float:
    """Return the fraction of running sessions that last at least ``age`` longer.

    It is the integral of the survival function from ``age`` to infinity, divided by the mean.
    For a Weibull variable that is a regularised incomplete gamma function.
    """
    return regularised_gamma_q(1 / shape, math.pow(age / scale, shape))


def exponential_residual_survival(age: float, mean: float) -> float:
    """Return exp(-age / mean), since what is left of an exponential session has no memory."""
    return math.exp(-age / mean)


def record_survival(residual_survival: Callable[[float], float], age: float, k: int) -> float:
    """Return the probability that at least one of k holders is on line: 1 - (1 - R(t))^k."""
    return float(1 - (1 - residual_survival(age)) ** k)
