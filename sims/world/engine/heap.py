"""The event heap: run events in order of time, deterministically.

It is the only event heap of the simulator, of tests, of laboratories and of benchmarks.
Events at the same time run in the order in which they were pushed. An event cannot be cancelled.
Its owner ignores it instead; for example, a node remembers which deadline it waits for.

Reasons: docs/decisions/0020 and 0065.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Any, Final

__all__ = ["STOP_CHECK_EVENTS", "Action", "EventHeap"]

Action = Callable[[Any, Any], None]
"""The action of an event. It gets the two operands that were pushed with it."""

STOP_CHECK_EVENTS: Final = 4096
"""Events between two calls of ``should_stop``, which take about 0.1 s of wall time."""


class EventHeap:
    """Virtual time and pending events. Its size is the number of pending events."""

    __slots__ = ("_heap", "_serial", "fired", "now")

    def __init__(self, now: float = 0.0) -> None:
        self.now = now
        self.fired = 0
        self._heap: list[tuple[float, int, Action, Any, Any]] = []
        self._serial = 0

    def __len__(self) -> int:
        return len(self._heap)

    def at(self, when: float, action: Action, one: object = None, other: object = None) -> None:
        """Schedule ``action(one, other)`` for ``when``, or for now if that is in the past."""
        self._serial += 1
        now = self.now
        entry = (when if when > now else now, self._serial, action, one, other)
        heapq.heappush(self._heap, entry)

    @property
    def next_at(self) -> float:
        """The time of the next event, or infinity if none is pending."""
        return self._heap[0][0] if self._heap else math.inf

    def step(self) -> None:
        """Run the next event alone.

        Raises:
            IndexError: no event is pending.
        """
        self.now, _, action, one, other = heapq.heappop(self._heap)
        action(one, other)
        self.fired += 1

    def pass_to(self, when: float) -> None:
        """Set the time to ``when``, unless it is in the past.

        Raises:
            ValueError: an event is pending before ``when``.
        """
        if self.next_at < when:
            raise ValueError(f"An event at {self.next_at:.6f} s is pending before {when:.6f} s.")
        self.now = max(self.now, when)

    def run(self, until: float, should_stop: Callable[[], bool] | None = None) -> bool:
        """Run all events up to ``until``, which is the virtual time afterwards.

        Returns:
            False if ``should_stop`` ended the run earlier. Then the time is that of the last event.
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
