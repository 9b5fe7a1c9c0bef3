"""Availability, and how long a record survives that nobody stores again."""

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

from sims.theory.special import regularised_gamma_q


def availability(mean_on: float, mean_off: float) -> float:
    """Return the share of time on line of an alternating renewal process."""
    return mean_on / (mean_on + mean_off)


def online_deviation(nodes: int, share: float) -> float:
    """Return the standard deviation of the number on line, a binomial variable."""
    return math.sqrt(nodes * share * (1 - share))


def weibull_mean(scale: float, shape: float) -> float:
    """Return scale * gamma(1 + 1/shape)."""
    return scale * math.gamma(1 + 1 / shape)


def weibull_deviation(scale: float, shape: float) -> float:
    """Return scale * sqrt(gamma(1 + 2/shape) - gamma(1 + 1/shape)^2)."""
    return scale * math.sqrt(math.gamma(1 + 2 / shape) - math.gamma(1 + 1 / shape) ** 2)


def pareto_deviation(scale: float, shape: float) -> float:
    """Return the standard deviation of a Lomax variable; infinite up to a shape of 2."""
    if shape <= 2:
        return math.inf
    return scale / (shape - 1) * math.sqrt(shape / (shape - 2))


def weibull_median(scale: float, shape: float) -> float:
    """Return scale * (ln 2) ** (1/shape)."""
    return float(scale * math.log(2) ** (1 / shape))


def weibull_survival(age: float, scale: float, shape: float) -> float:
    """Return the share of new sessions that last longer than ``age``."""
    return math.exp(-math.pow(age / scale, shape))


def weibull_residual_survival(age: float, scale: float, shape: float) -> float:
    """Return the share of sessions met under way that last ``age`` longer.

    The integral of the survival from ``age`` on over the mean, which for a Weibull is a
    regularised incomplete gamma function.
    """
    return regularised_gamma_q(1 / shape, math.pow(age / scale, shape))


def exponential_residual_survival(age: float, mean: float) -> float:
    """Return exp(-age / mean): an exponential session never grows old."""
    return math.exp(-age / mean)


def record_survival(residual_survival: Callable[[float], float], age: float, k: int) -> float:
    """Return the probability that one of k holders is still there: 1 - (1 - R(t))^k."""
    return float(1 - (1 - residual_survival(age)) ** k)
