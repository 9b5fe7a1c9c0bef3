"""The node's own recurring chores, beside the deadlines of its cores."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Chores"]


@dataclass(slots=True)
class _Chore:
    interval_s: float
    action: Callable[[float], None]
    due: float


class Chores:
    """Call each action every so often; sole owner of when. Bounded by what the node adds."""

    def __init__(self) -> None:
        self._chores: list[_Chore] = []

    def every(self, interval_s: float, action: Callable[[float], None], *, first: float) -> None:
        """Call ``action(now)`` at ``first`` and then every ``interval_s`` seconds."""
        self._chores.append(_Chore(interval_s, action, first))

    def next_deadline(self) -> float:
        """Return when :meth:`handle_deadline` wants to be called."""
        return min((chore.due for chore in self._chores), default=math.inf)

    def handle_deadline(self, now: float) -> None:
        """Do what is due; afterwards the next deadline lies after ``now``."""
        for chore in self._chores:
            if chore.due <= now:
                chore.due = now + chore.interval_s
                chore.action(now)
