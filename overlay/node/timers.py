"""The recurring chores of a node, beside the deadlines of its cores."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from overlay.errors import InternalError, OverlayError
from overlay.logs import EventLog, Word

__all__ = ["PeriodicTasks"]

_RETRY_S = 60.0
"""A chore that failed is tried again after this time, or after its interval if that is shorter."""

_log = EventLog(__name__)


@dataclass(slots=True)
class _PeriodicTask:
    name: str
    interval_s: float
    action: Callable[[float], None]
    due: float
    failing: bool = False


class PeriodicTasks:
    """Call actions at intervals.

    A chore that fails (a full disk, a busy kernel) stops nothing. It is counted in ``failures`` and
    tried again. The first failure and the next success are logged.
    """

    def __init__(self) -> None:
        self.failures = 0
        self._chores: list[_PeriodicTask] = []

    def every(
        self, interval_s: float, name: str, action: Callable[[float], None], *, first: float
    ) -> None:
        """Call ``action(now)`` at ``first`` and then every ``interval_s`` seconds."""
        self._chores.append(_PeriodicTask(name, interval_s, action, first))

    def next_deadline(self) -> float:
        """Return when to call :meth:`handle_deadline`."""
        return min((chore.due for chore in self._chores), default=math.inf)

    def handle_deadline(self, now: float) -> None:
        """Do what is due. Afterwards the next deadline is later than ``now``."""
        for chore in list(self._chores):
            if chore.due <= now:
                chore.due = now + chore.interval_s
                self._attempt(chore, now)

    def cancel_all(self) -> None:
        """Forget every chore, because the node stops."""
        self._chores.clear()

    def _attempt(self, chore: _PeriodicTask, now: float) -> None:
        try:
            chore.action(now)
        except InternalError:
            raise
        except OverlayError as error:
            self.failures += 1
            chore.due = now + min(chore.interval_s, _RETRY_S)
            if not chore.failing:
                kind = Word(type(error).__name__)
                _log.warning("chore.failing", chore=Word(chore.name), cause=kind)
            chore.failing = True
        else:
            if chore.failing:
                _log.info("chore.recovered", chore=Word(chore.name))
            chore.failing = False
