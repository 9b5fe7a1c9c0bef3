"""The periodic tasks of a node, beside the deadlines of its cores."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from overlay.errors import InternalError, OverlayError
from overlay.logs import EventLog, Word

__all__ = ["PeriodicTasks"]

_RETRY_S = 60.0
"""A task that failed is tried again after this time, or after its interval if that is shorter."""

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

    A task that fails (a full disk, a busy kernel) stops nothing. It is counted in ``failures`` and
    tried again. The first failure and the next success are logged.
    """

    def __init__(self) -> None:
        self.failures = 0
        self._tasks: list[_PeriodicTask] = []

    def every(
        self, interval_s: float, name: str, action: Callable[[float], None], *, first: float
    ) -> None:
        """Call ``action(now)`` at ``first`` and then every ``interval_s`` seconds."""
        self._tasks.append(_PeriodicTask(name, interval_s, action, first))

    def next_deadline(self) -> float:
        """Return when to call :meth:`handle_deadline`."""
        return min((task.due for task in self._tasks), default=math.inf)

    def handle_deadline(self, now: float) -> None:
        """Do what is due. Afterwards the next deadline is later than ``now``."""
        for task in list(self._tasks):
            if task.due <= now:
                task.due = now + task.interval_s
                self._attempt(task, now)

    def cancel_all(self) -> None:
        """Forget every task, because the node stops."""
        self._tasks.clear()

    def _attempt(self, task: _PeriodicTask, now: float) -> None:
        try:
            task.action(now)
        except InternalError:
            raise
        except OverlayError as error:
            self.failures += 1
            task.due = now + min(task.interval_s, _RETRY_S)
            if not task.failing:
                kind = Word(type(error).__name__)
                _log.warning("periodic_task.failing", task=Word(task.name), cause=kind)
            task.failing = True
        else:
            if task.failing:
                _log.info("periodic_task.recovered", task=Word(task.name))
            task.failing = False
