"""The clock of a node: Unix seconds that do not follow steps of the system's time.

Every core takes ``now`` as one float, for deadlines and for expiry. It is trio's clock plus an
offset that is read once. So a ``MockClock`` can drive whole overlays, and a step of the system's
time neither fires nor delays a timer. Trio's clock (CLOCK_MONOTONIC) stops while the host is
suspended. That time is added afterwards. Otherwise this node would seem to have a wrong clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import trio

__all__ = ["Clock"]

_NOISE_S: Final = 1.0
"""Two clocks cannot be read at the same time, so shorter suspensions are added up first."""


def _slept_s() -> float:
    """Return for how many seconds this host was suspended since its boot."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


def _booted_s() -> float:
    """Return the Unix time of this host's boot, which changes when the system's time is set."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


class Clock:
    """Translate between trio's clock and Unix seconds."""

    __slots__ = ("_booted", "_booted_s", "_offset", "_slept", "_slept_s")

    def __init__(
        self,
        offset_s: float,
        slept_s: Callable[[], float] = _slept_s,
        booted_s: Callable[[], float] = _booted_s,
    ) -> None:
        """Take ``offset_s``, the Unix time at which trio's clock read zero.

        ``slept_s`` returns for how many seconds the host was suspended, and ``booted_s`` the time
        of its boot by the system's clock.
        """
        self._offset = offset_s
        self._booted_s = booted_s
        self._booted = booted_s()
        self._slept_s = slept_s
        self._slept = slept_s()

    @classmethod
    def system(cls) -> Clock:
        """Read the system's time once, inside a running trio program."""
        return cls(time.time() - trio.current_time())

    def now(self) -> float:
        """Return Unix seconds."""
        slept = self._slept_s()
        if slept - self._slept >= _NOISE_S:
            self._offset += slept - self._slept
            self._slept = slept
        return trio.current_time() + self._offset

    def step_s(self) -> float:
        """Return by how many seconds the system's time was set since this clock was made.

        Suspension is no step. The slewing of a time service is included.
        """
        return self._booted_s() - self._booted

    def to_trio(self, when: float) -> float:
        """Convert a deadline in Unix seconds to trio's clock."""
        return when - self._offset
