"""Detect a clock that is wrong, and a clock that is set while the node runs.

The time of the cores never jumps, because all their timers depend on it. If the system's time is
set, the node restarts inside its process. Its destinations stay blocked during the restart, and
its paths are rebuilt. It signs and publishes with the new time at once.

Reasons: docs/decisions/0050.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from overlay.clock import Clock
from overlay.dht.clock_watch import ClockOffset
from overlay.logs import EventLog

__all__ = ["STEP_S", "ClockReport", "clock_problem", "follow_steps"]

STEP_S: Final = 120.0
"""Least step that causes a restart: one fifth of the 10 minutes that other nodes tolerate. A
restart ends all circuits, which a smaller step does not justify."""

_TOLERATED_S: Final = 300.0
"""Half of the difference that other nodes tolerate, so that the user is warned in time."""

_LOOK_S: Final = 1.0
"""Interval between two comparisons of the system's time with the node's clock."""

_log = EventLog(__name__)


async def follow_steps(clock: Clock, stepped: Callable[[], None]) -> None:
    """Wait until the system's time is set by ``STEP_S`` or more, then call ``stepped``."""
    while abs(clock.step_s()) < STEP_S:
        await trio.sleep(_LOOK_S)
    _log.warning("clock.was_set", by_s=round(clock.step_s()))
    stepped()


class ClockReport:
    """Log when the clock becomes wrong and when it is right again, once each.

    ``offset`` returns the difference between this host's clock and those of other nodes, or None
    if it is not known.
    """

    def __init__(self, offset: Callable[[float], ClockOffset | None]) -> None:
        self._offset = offset
        self._is_wrong = False

    def problem(self, now: float) -> str | None:
        """Return a sentence about a wrong clock of this host, or None if none is known."""
        return clock_problem(self._offset(now))

    def check(self, now: float) -> None:
        """Log whether the clock is wrong, if that has changed since the last call."""
        offset = self._offset(now)
        wrong = clock_problem(offset) is not None
        if offset is not None and wrong != self._is_wrong:
            word = "clock.differs" if wrong else "clock.agrees"
            _log.warning(word, ahead_s=round(offset.ahead_s), nodes=offset.peers)
        self._is_wrong = wrong


def clock_problem(offset: ClockOffset | None) -> str | None:
    """Return a sentence for the user if the clock differs too much from those of other nodes."""
    if offset is None or abs(offset.ahead_s) < _TOLERATED_S:
        return None
    how = "ahead of" if offset.ahead_s > 0 else "behind"
    whose = "that of the node" if offset.peers == 1 else f"those of the {offset.peers} nodes"
    answered = "that answers" if offset.peers == 1 else "that answer"
    return (
        f"this host's clock is {_duration(abs(offset.ahead_s))} {how} {whose} {answered}, so "
        "nodes do not accept what the other side signs; set it with a time service, as with: "
        "apt-get install chrony"
    )


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
