"""The one event heap: what happens next, in an order that depends on nothing but the events.

Events of one instant happen in the order in which they were pushed. Nothing is ever taken
out: who changed their mind lets the event pass (a node remembers which wake-up it awaits).

Reasons: docs/decisions/0020.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any, Final

__all__ = ["STOP_CHECK_EVENTS", "Action", "EventHeap"]

Action = Callable[[Any, Any], None]
"""What happens, given the two operands that were pushed with it."""

STOP_CHECK_EVENTS: Final = 4096
"""Between two looks at ``should_stop``: about a tenth of a second of wall time."""


class EventHeap:
    """Virtual time and the events ahead of it. Grows with what is in flight, no further."""

    __slots__ = ("_heap", "_serial", "fired", "now")

    def __init__(self, now: float = 0.0) -> None:
        self.now = now
        self.fired = 0
        self._heap: list[tuple[float, int, Action, Any, Any]] = []
        self._serial = 0

    def __len__(self) -> int:
        return len(self._heap)

    def at(self, when: float, action: Action, one: object = None, other: object = None) -> None:
        """Let ``action(one, other)`` happen at ``when``, but never before now."""
        self._serial += 1
        now = self.now
        entry = (when if when > now else now, self._serial, action, one, other)
        heapq.heappush(self._heap, entry)

    def run(self, until: float, should_stop: Callable[[], bool] | None = None) -> bool:
        """Let everything happen that is due up to ``until``; time then stands there.

        Returns:
            False if ``should_stop`` ended the run earlier: time then stands at the last event.
        """
        heap, pop = self._heap, heapq.heappop
        before_check = STOP_CHECK_EVENTS
        while heap and heap[0][0] <= until:
            self.now, _, action, one, other = pop(heap)
            action(one, other)
            self.fired += 1
            before_check -= 1
            if not before_check:
                before_check = STOP_CHECK_EVENTS
                if should_stop is not None and should_stop():
                    return False
        self.now = max(self.now, until)
        return True
