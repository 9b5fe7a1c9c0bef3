"""Distributions of session and absence lengths, with their exact equilibrium residuals.

At a random moment, a running session is more often a long one than a short one. The remaining
length has the density (1 - F(x)) / E[S], which differs from that of a new session:

=============  ====================  ==============================================
distribution   1 - F(x)              residual, sampled exactly
=============  ====================  ==============================================
Weibull        exp(-(x/s)^c)         s * G^(1/c), G gamma distributed with shape 1/c
Exponential    exp(-x/m)             the same again
Pareto         (1 + x/s)^-a          Pareto with a - 1 (infinite mean if a <= 2)
Observed       share above x         a session picked by its length, cut uniformly
Fixed          1 up to d             uniform
=============  ====================  ==============================================

Pareto is of type II (Lomax): starts at zero, as a session may. Times are in seconds.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from random import Random
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from sims.special import regularised_gamma_q

__all__ = ["Exponential", "Fixed", "Lifetimes", "Observed", "Pareto", "Weibull"]

Floats = NDArray[np.float64]

_MOST_EXPONENT: Final = 600.0
"""Limit of exponents. Residuals of a Pareto with a shape near 1 would exceed the float range."""


class Lifetimes(Protocol):
    """A distribution of positive lengths of time."""

    def mean(self) -> float:
        """Return the expected length in seconds."""
        ...

    def survival(self, age: float) -> float:
        """Return the fraction of new sessions that last longer than ``age``."""
        ...

    def residual_survival(self, age: float) -> float:
        """Return the fraction of running sessions that last at least ``age`` longer."""
        ...

    def sample(self, rng: Random) -> float:
        """Draw the length of a new session."""
        ...

    def residual(self, rng: Random) -> float:
        """Draw what is left of a session that is met under way."""
        ...

    def samples(self, rng: np.random.Generator, count: int) -> Floats:
        """Draw ``count`` lengths at once."""
        ...

    def residuals(self, rng: np.random.Generator, count: int) -> Floats:
        """Draw ``count`` residuals at once."""
        ...


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be a positive number, not {value!r}")


@dataclass(frozen=True, slots=True)
class Weibull:
    """Weibull: 1 - F(x) = exp(-(x / scale_s) ** shape). A shape below 1 has a heavy tail."""

    scale_s: float
    shape: float

    def __post_init__(self) -> None:
        _positive(scale=self.scale_s, shape=self.shape)

    @classmethod
    def with_mean(cls, mean_s: float, shape: float) -> Weibull:
        """Return the distribution with this mean: scale = mean / gamma(1 + 1/shape)."""
        _positive(mean=mean_s, shape=shape)
        return cls(mean_s / math.gamma(1 + 1 / shape), shape)

    def mean(self) -> float:
        """Return scale * gamma(1 + 1/shape)."""
        return self.scale_s * math.gamma(1 + 1 / self.shape)

    def survival(self, age: float) -> float:
        """Return exp(-(age / scale) ** shape)."""
        return math.exp(-((age / self.scale_s) ** self.shape))

    def residual_survival(self, age: float) -> float:
        """Return Q(1/shape, (age / scale) ** shape), the integral of the survival."""
        return regularised_gamma_q(1 / self.shape, (age / self.scale_s) ** self.shape)

    def sample(self, rng: Random) -> float:
        """Draw the length of a new session."""
        return self.scale_s * math.pow(rng.expovariate(1.0), 1 / self.shape)

    def residual(self, rng: Random) -> float:
        """Draw what is left of a session that is met under way."""
        return self.scale_s * math.pow(rng.gammavariate(1 / self.shape, 1.0), 1 / self.shape)

    def samples(self, rng: np.random.Generator, count: int) -> Floats:
        """Draw many lengths."""
        return self.scale_s * rng.standard_exponential(count) ** (1 / self.shape)

    def residuals(self, rng: np.random.Generator, count: int) -> Floats:
        """Draw many residuals."""
        return self.scale_s * rng.standard_gamma(1 / self.shape, count) ** (1 / self.shape)


class Exponential(Weibull):
    """Exponential: 1 - F(x) = exp(-x / mean). The residual does not depend on the age."""

    def __init__(self, mean_s: float) -> None:
        _positive(mean=mean_s)
        super().__init__(mean_s, 1.0)


@dataclass(frozen=True, slots=True)
class Pareto:
    """Pareto (Lomax): 1 - F(x) = (1 + x / scale_s) ** -shape; shape > 1, so it has a mean."""

    scale_s: float
    shape: float

    def __post_init__(self) -> None:
        _positive(scale=self.scale_s, shape=self.shape)
        if self.shape <= 1:
            raise ValueError(f"shape must exceed 1, else there is no mean, not {self.shape!r}")

    def mean(self) -> float:
        """Return scale / (shape - 1)."""
        return self.scale_s / (self.shape - 1)

    def survival(self, age: float) -> float:
        """Return (1 + age / scale) ** -shape."""
        return math.exp(-self.shape * math.log1p(age / self.scale_s))

    def residual_survival(self, age: float) -> float:
        """Return (1 + age / scale) ** (1 - shape)."""
        return math.exp((1 - self.shape) * math.log1p(age / self.scale_s))

    def sample(self, rng: Random) -> float:
        """Draw the length of a new session."""
        return self.scale_s * math.expm1(rng.expovariate(1.0) / self.shape)

    def residual(self, rng: Random) -> float:
        """Draw what is left of a session that is met under way."""
        exponent = min(rng.expovariate(1.0) / (self.shape - 1), _MOST_EXPONENT)
        return self.scale_s * math.expm1(exponent)

    def samples(self, rng: np.random.Generator, count: int) -> Floats:
        """Draw many lengths."""
        return self.scale_s * np.expm1(rng.standard_exponential(count) / self.shape)

    def residuals(self, rng: np.random.Generator, count: int) -> Floats:
        """Draw many residuals."""
        exponents = rng.standard_exponential(count) / (self.shape - 1)
        return self.scale_s * np.expm1(np.minimum(exponents, _MOST_EXPONENT))


@dataclass(frozen=True, slots=True)
class Fixed:
    """All sessions have the same length."""

    length_s: float

    def __post_init__(self) -> None:
        _positive(length=self.length_s)

    def mean(self) -> float:
        """Return the length."""
        return self.length_s

    def survival(self, age: float) -> float:
        """Return 1 before the end and 0 after it."""
        return float(age < self.length_s)

    def residual_survival(self, age: float) -> float:
        """Return the uniform distribution's survival."""
        return max(0.0, 1 - age / self.length_s)

    def sample(self, rng: Random) -> float:  # noqa: ARG002 - the Protocol's signature
        """Return the length."""
        return self.length_s

    def residual(self, rng: Random) -> float:
        """Draw a residual uniformly; 1 - random() is never zero."""
        return self.length_s * (1 - rng.random())

    def samples(self, rng: np.random.Generator, count: int) -> Floats:  # noqa: ARG002 - likewise
        """Return the length many times."""
        return np.full(count, self.length_s)

    def residuals(self, rng: np.random.Generator, count: int) -> Floats:
        """Draw many residuals."""
        return self.length_s * (1 - rng.random(count))


@dataclass(frozen=True, slots=True)
class Observed:
    """The lengths of a trace, all with the same probability."""

    lengths_s: tuple[float, ...]
    _sorted: tuple[float, ...] = field(init=False, repr=False)
    _tails: tuple[float, ...] = field(init=False, repr=False)

    def __init__(self, lengths_s: Sequence[float]) -> None:
        if not lengths_s:
            raise ValueError("a trace needs at least one session")
        _positive(**{f"session {index + 1}": length for index, length in enumerate(lengths_s)})
        ordered = tuple(sorted(lengths_s))
        object.__setattr__(self, "lengths_s", tuple(lengths_s))
        object.__setattr__(self, "_sorted", ordered)
        object.__setattr__(self, "_tails", tuple(accumulate(ordered)))

    def mean(self) -> float:
        """Return the mean of the observed lengths."""
        return self._tails[-1] / len(self._sorted)

    def survival(self, age: float) -> float:
        """Return the fraction of lengths above ``age``."""
        return 1 - bisect_right(self._sorted, age) / len(self._sorted)

    def residual_survival(self, age: float) -> float:
        """Return the integral of the survival from ``age`` to infinity, divided by the mean."""
        below = bisect_right(self._sorted, age)
        longer = self._tails[-1] - (self._tails[below - 1] if below else 0.0)
        return (longer - age * (len(self._sorted) - below)) / self._tails[-1]

    def sample(self, rng: Random) -> float:
        """Draw one of the lengths."""
        return rng.choice(self._sorted)

    def residual(self, rng: Random) -> float:
        """Draw a length with a probability proportional to it, and return a uniform part of it."""
        index = bisect_left(self._tails, rng.random() * self._tails[-1])
        return self._sorted[index] * (1 - rng.random())

    def samples(self, rng: np.random.Generator, count: int) -> Floats:
        """Draw many lengths."""
        return rng.choice(np.asarray(self._sorted), count)

    def residuals(self, rng: np.random.Generator, count: int) -> Floats:
        """Draw many residuals."""
        picked = np.searchsorted(np.asarray(self._tails), rng.random(count) * self._tails[-1])
        return np.asarray(self._sorted)[picked] * (1 - rng.random(count))
