"""Due times of periodic tasks, and intervals that grow."""

from __future__ import annotations

import enum
import math
from random import Random
from typing import Final

__all__ = ["JITTER", "Pace", "Schedule", "Task"]

JITTER: Final = 0.2
"""Intervals vary by this fraction, so that nodes do not act at the same time."""


class Task(enum.Enum):
    """A periodic task."""

    REFRESH = "refresh a bucket"
    PUBLISH = "store our descriptor again"
    CRAWL = "crawl the overlay"


class Schedule:
    """At most one due time per task."""

    def __init__(self) -> None:
        self._times: dict[Task, float] = {}
        self._next = math.inf

    def at(self, task: Task, when: float) -> None:
        """Set when a task is due."""
        self._times[task] = when
        self._note_next()

    def hasten(self, task: Task, when: float) -> None:
        """Move a scheduled task to ``when`` if that is earlier."""
        if task in self._times:
            self.at(task, min(self._times[task], when))

    def cancel(self, task: Task) -> None:
        """Forget a task."""
        self._times.pop(task, None)
        self._note_next()

    def cancel_all(self) -> None:
        """Forget every task."""
        self._times.clear()
        self._note_next()

    def next_deadline(self) -> float:
        """Return when the first task is due."""
        return self._next

    def due(self, now: float) -> list[Task]:
        """Remove and return the tasks that are due."""
        due = [task for task, when in self._times.items() if when <= now]
        for task in due:
            del self._times[task]
        self._note_next()
        return due

    def _note_next(self) -> None:
        """Cache the earliest due time, because it is read after every datagram."""
        self._next = min(self._times.values(), default=math.inf)


class Pace:
    """Intervals that double from the shortest to the longest, each with 20 % of jitter."""

    def __init__(self, shortest_s: float, longest_s: float, rng: Random) -> None:
        self._longest = longest_s
        self._current = shortest_s
        self._rng = rng

    def next(self) -> float:
        """Return the next interval and double the one after it."""
        current = self._current
        self._current = min(2 * current, self._longest)
        return current * self._rng.uniform(1 - JITTER, 1 + JITTER)
