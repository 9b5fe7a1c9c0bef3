"""What a node does about a clock that is wrong, and one that is set while it runs.

The cores' time never jumps, because all their timers depend on it. So a node whose host's time was
set starts anew inside its process: its destinations stay blocked meanwhile, and its paths
return. It signs and publishes with the new time at once.

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
"""A fifth of what other nodes tolerate (10 minutes): smaller steps are not worth the circuits."""

_TOLERATED_S: Final = 300.0
"""Half of what other nodes tolerate, so that the user hears of it in time."""

_LOOK_S: Final = 1.0

_log = EventLog(__name__)


async def follow_steps(clock: Clock, stepped: Callable[[], None]) -> None:
    """Return after a step of the system's time, having called ``stepped``."""
    while abs(clock.step_s()) < STEP_S:
        await trio.sleep(_LOOK_S)
    _log.warning("clock.was_set", by_s=round(clock.step_s()))
    stepped()


class ClockReport:
    """Tells the log, once, when the clock is off and when it is right again."""

    def __init__(self, offset: Callable[[float], ClockOffset | None]) -> None:
        self._offset = offset
        self._is_wrong = False

    def problem(self, now: float) -> str | None:
        """Return what is wrong with this host's clock as far as other nodes tell, or None."""
        return clock_problem(self._offset(now))

    def check(self, now: float) -> None:
        """Log a change."""
        offset = self._offset(now)
        wrong = clock_problem(offset) is not None
        if offset is not None and wrong != self._is_wrong:
            word = "clock.differs" if wrong else "clock.agrees"
            _log.warning(word, ahead_s=round(offset.ahead_s), nodes=offset.peers)
        self._is_wrong = wrong


def clock_problem(offset: ClockOffset | None) -> str | None:
    """Return what to tell the user about a clock that is too far from those of other nodes."""
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
