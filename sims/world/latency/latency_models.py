"""Latency models: the one-way delay between two hosts, which are identified by numbers.

Loss does not belong to a latency model. The network draws it separately.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final, Protocol

from overlay.errors import ConfigurationError
from sims.world.latency.geographic import Geographic, read_matrix, shipped_matrix

__all__ = ["Constant", "LatencyModel", "Uniform", "build_latency"]

_MODELS: Final = ("constant", "uniform", "geographic")


class LatencyModel(Protocol):
    """The interface of latency models."""

    def delay_s(self, source: int, destination: int, rng: Random) -> float:
        """Return the delay of one datagram in seconds; never negative."""
        ...


@dataclass(frozen=True, slots=True)
class Constant:
    """The same delay for every datagram."""

    one_way_s: float

    def __post_init__(self) -> None:
        _check(self.one_way_s)

    def delay_s(self, source: int, destination: int, rng: Random) -> float:  # noqa: ARG002 - protocol
        """Return the constant."""
        return self.one_way_s


@dataclass(frozen=True, slots=True)
class Uniform:
    """A random delay for each datagram, so that datagrams may overtake each other."""

    low_s: float
    high_s: float

    def __post_init__(self) -> None:
        _check(self.low_s)
        _check(self.high_s)
        if self.low_s > self.high_s:
            raise ConfigurationError(
                f"The uniform delay from {self.low_s:g} s to {self.high_s:g} s is empty; "
                "write the smaller one first."
            )

    def delay_s(self, source: int, destination: int, rng: Random) -> float:  # noqa: ARG002 - protocol
        """Draw a delay from the range, in seconds."""
        return self.low_s + (self.high_s - self.low_s) * rng.random()


def build_latency(
    model: str, *, low_s: float = 0.025, high_s: float = 0.075, matrix: Path | None = None
) -> LatencyModel:
    """Return the latency model that a scenario names.

    Args:
        model: ``constant`` (uses ``low_s``), ``uniform`` or ``geographic``.
        low_s: shortest one-way delay in seconds.
        high_s: longest one-way delay in seconds, for ``uniform``.
        matrix: file of one-way delays, for ``geographic``; None means the default matrix.

    Raises:
        ConfigurationError: an unknown name, an impossible delay or an unreadable matrix.
    """
    if model == "constant":
        return Constant(low_s)
    if model == "uniform":
        return Uniform(low_s, high_s)
    if model == "geographic":
        return Geographic(shipped_matrix() if matrix is None else read_matrix(matrix))
    raise ConfigurationError(f"{model!r} is no latency model; write one of {', '.join(_MODELS)}.")


def _check(delay_s: float) -> None:
    if not (math.isfinite(delay_s) and delay_s >= 0):
        raise ConfigurationError(f"A delay is a number of seconds from 0 on, not {delay_s!r}.")
