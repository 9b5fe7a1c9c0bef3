"""The one clock of a node: Unix seconds that never step back, nor forth while the host is awake.

Every core takes ``now`` as one float, for deadlines and for expiry alike. It is trio's clock
plus an offset that is read once, so a ``MockClock`` drives whole overlays and a step of the
system's time cannot fire or stall a timer. Trio's clock stands still while the host sleeps
(CLOCK_MONOTONIC); that time is added afterwards, or peers would take a node that has slept for
one whose clock is wrong, and it them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import trio

__all__ = ["Clock"]

_NOISE_S: Final = 1.0
"""Two clocks cannot be read at once; a shorter sleep is made up for by a later one."""


def _slept_s() -> float:
    """Return how long this host has slept since it was started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


def _booted_s() -> float:
    """Return when this host was started: it changes when the system's time is set."""
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

        ``slept_s`` tells how long the host has slept in all, ``booted_s`` when it was started as
        the system's clock has it.
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

        Sleep is no step. A time service that slews the clock adds up to one, too.
        """
        return self._booted_s() - self._booted

    def to_trio(self, when: float) -> float:
        """Return a deadline in Unix seconds as one of trio's clock."""
        return when - self._offset
