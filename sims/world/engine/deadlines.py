"""Drive sans-I/O parts by their deadlines, together with the events of the heap.

A core of the product says when it must be called (``next_deadline``) and is then called
(``handle_deadline``). The node's shell does this with the real clock, and this module does it
with virtual time. The simulator's machines push their deadlines into the heap instead, because
asking thousands of machines before every event would be too slow.

Reasons: docs/decisions/0065.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Protocol

from sims.world.engine.heap import EventHeap

__all__ = ["HasDeadlines", "NotAtRest", "run_with_deadlines"]


class HasDeadlines(Protocol):
    """A part that is driven by deadlines."""

    def next_deadline(self) -> float:
        """Return the time at which it must be called, or infinity."""
        ...

    def handle_deadline(self, now: float) -> None:
        """Do what is due at ``now``, so that the next deadline is later."""
        ...


class NotAtRest(AssertionError):
    """A part has work due now after it did all its work, so its shell would never sleep."""


def run_with_deadlines(
    heap: EventHeap,
    until: float,
    timed: Callable[[], Iterable[HasDeadlines]],
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Run events and deadlines in order of time up to ``until``, or until ``stop`` is true.

    An event precedes a deadline of the same time, because a shell reads its socket first.

    Args:
        heap: the events and the virtual time. Its time is ``until`` afterwards, unless stopped.
        until: end of the run, in the heap's seconds.
        timed: returns the parts at this moment, because a test may crash or add some.
        stop: is asked before each step.

    Returns:
        Whether ``stop`` is true at the end.

    Raises:
        NotAtRest: a part's next deadline is not later than the one that it has just handled.
    """
    while not stop():
        due = min((part.next_deadline() for part in timed()), default=math.inf)
        arrival = heap.next_at
        if min(due, arrival) > until:
            heap.pass_to(until)
            return stop()
        if arrival <= due:
            heap.step()
            continue
        heap.pass_to(due)
        now = heap.now
        for part in tuple(timed()):
            if part.next_deadline() <= now:
                part.handle_deadline(now)
                if part.next_deadline() <= now:
                    raise NotAtRest(f"{part!r} has work due at {now:.6f} s again.")
    return True
