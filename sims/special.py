"""Special functions of theory, session models and statistics, in plain Python.

They are accurate to about 1e-12 for the arguments that the simulator uses. Tests compare them
with identities and tabulated values. Five functions do not justify another dependency.
"""

from __future__ import annotations

import math
from typing import Final

__all__ = [
    "binomial_pmf",
    "chi_squared_cdf",
    "kolmogorov_p",
    "regularised_gamma_p",
    "regularised_gamma_q",
    "student_t_95",
]

_TINY: Final = 1e-300
_PRECISION: Final = 1e-15
_MAX_TERMS: Final = 10_000
_HALVINGS: Final = 60
"""Halvings of an interval below 2, after which its ends differ by less than 2e-18."""


def regularised_gamma_p(a: float, x: float) -> float:
    """Return P(a, x), the lower incomplete gamma function divided by gamma(a).

    Below x = a + 1 the series converges faster (Abramowitz and Stegun 6.5.29), above it the
    continued fraction does (6.5.31).

    Raises:
        ValueError: ``a`` is not positive or ``x`` is negative.
    """
    if a <= 0 or x < 0:
        raise ValueError("the incomplete gamma function needs a > 0 and x >= 0")
    if x == 0:
        return 0.0
    return _series(a, x) if x < a + 1 else 1 - _fraction(a, x)


def regularised_gamma_q(a: float, x: float) -> float:
    """Return Q(a, x) = 1 - P(a, x), also with full precision where it is very small."""
    if a <= 0 or x < 0:
        raise ValueError("the incomplete gamma function needs a > 0 and x >= 0")
    if x == 0:
        return 1.0
    return 1 - _series(a, x) if x < a + 1 else _fraction(a, x)


def chi_squared_cdf(x: float, degrees: float) -> float:
    """Return the probability that a chi-squared variable with ``degrees`` is at most ``x``."""
    return regularised_gamma_p(degrees / 2, max(x, 0.0) / 2)


def binomial_pmf(count: int, trials: int, probability: float) -> float:
    """Return P(Bin(trials, probability) = count)."""
    if not 0 <= count <= trials:
        return 0.0
    if probability <= 0 or probability >= 1:
        return float(count == (trials if probability >= 1 else 0))
    log = (
        math.lgamma(trials + 1)
        - math.lgamma(count + 1)
        - math.lgamma(trials - count + 1)
        + count * math.log(probability)
        + (trials - count) * math.log1p(-probability)
    )
    return math.exp(log)


def kolmogorov_p(statistic: float, size: int) -> float:
    """Return the p-value of a one-sample Kolmogorov-Smirnov statistic.

    It uses the limiting series with Stephens' correction for finite samples, which is accurate
    for ``size`` >= 20.
    """
    root = math.sqrt(size)
    scaled = (root + 0.12 + 0.11 / root) * statistic
    if scaled < 0.2:
        return 1.0
    terms = (math.copysign(math.exp(-2 * (j * scaled) ** 2), j % 2 - 0.5) for j in range(1, 101))
    return min(1.0, max(0.0, 2 * sum(terms)))


def student_t_95(degrees: int) -> float:
    """Return t such that 95 % of Student's distribution is between -t and t.

    For a whole number of degrees of freedom the probability is a finite sum (Abramowitz and
    Stegun, 26.7.3 and 26.7.4), which is inverted by bisection. NaN if ``degrees`` is below 1.
    """
    if degrees < 1:
        return math.nan
    low, high = 0.0, math.pi / 2
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _student_share(middle, degrees) < 0.95:
            low = middle
        else:
            high = middle
    return math.sqrt(degrees) * math.tan(low)


def _student_share(theta: float, degrees: int) -> float:
    """Return the probability that |T| < sqrt(degrees) * tan(theta)."""
    cosine = math.cos(theta)
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = 0.0 if degrees == 1 else term
    for j in range(2 + odd, degrees - 1, 2):
        term *= cosine * cosine * (j - 1) / j
        total += term
    total *= math.sin(theta)
    return 2 / math.pi * (theta + total) if odd else total


def _series(a: float, x: float) -> float:
    term = total = 1 / a
    for n in range(1, _MAX_TERMS):
        term *= x / (a + n)
        total += term
        if term < total * _PRECISION:
            break
    return total * math.exp(a * math.log(x) - x - math.lgamma(a))


def _fraction(a: float, x: float) -> float:
    """Evaluate Q(a, x) by Lentz's method (Abramowitz and Stegun 6.5.31)."""
    b = x + 1 - a
    c = 1 / _TINY
    d = 1 / b
    value = d
    for n in range(1, _MAX_TERMS):
        factor = -n * (n - a)
        b += 2
        d = _apart_from_zero(factor * d + b)
        c = _apart_from_zero(b + factor / c)
        d = 1 / d
        value *= c * d
        if abs(c * d - 1) < _PRECISION:
            break
    return value * math.exp(a * math.log(x) - x - math.lgamma(a))


def _apart_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
