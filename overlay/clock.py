"""The one clock of a node: Unix seconds that never step.

Every core takes ``now`` as one float, for deadlines and for expiry alike. It is trio's clock
plus an offset that is read once, so a ``MockClock`` drives whole overlays and a step of the
system's time cannot fire or stall a timer.
"""

from __future__ import annotations

import time

import trio

__all__ = ["Clock"]


class Clock:
    """Translate between trio's clock and Unix seconds."""

    __slots__ = ("_offset",)

    def __init__(self, offset_s: float) -> None:
        """Take ``offset_s``, the Unix time at which trio's clock read zero."""
        self._offset = offset_s

    @classmethod
    def system(cls) -> Clock:
        """Read the system's time once, inside a running trio program."""
        return cls(time.time() - trio.current_time())

    def now(self) -> float:
        """Return Unix seconds."""
        return trio.current_time() + self._offset

    def to_trio(self, when: float) -> float:
        """Return a deadline in Unix seconds as one of trio's clock."""
        return when - self._offset
