"""Deadlines by key, earliest first."""

from __future__ import annotations

import heapq
import itertools
import math
from typing import Generic, TypeVar

__all__ = ["Timers"]

K = TypeVar("K")


class Timers(Generic[K]):
    """At most one deadline for each key; setting it again replaces it.

    Replaced and cancelled entries stay in the heap until they are the first. The heap is rebuilt
    when such entries are the majority, so that its size stays proportional to the number of keys.
    """

    def __init__(self) -> None:
        self._live: dict[K, tuple[float, int, K]] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._ticket = itertools.count()

    def __len__(self) -> int:
        """Return how many keys have a deadline."""
        return len(self._live)

    def set(self, key: K, when: float) -> None:
        """Set the deadline of ``key`` to ``when``."""
        entry = self._live[key] = (when, next(self._ticket), key)
        heapq.heappush(self._heap, entry)
        if len(self._heap) > 64 and len(self._heap) > 2 * len(self._live):
            self._heap = list(self._live.values())
            heapq.heapify(self._heap)

    def cancel(self, key: K) -> None:
        """Forget the deadline of ``key``, if it has one."""
        self._live.pop(key, None)

    def next_deadline(self) -> float:
        """Return the earliest deadline, ``math.inf`` if there is none."""
        self._drop_stale()
        return self._heap[0][0] if self._heap else math.inf

    def pop_due(self, now: float) -> K | None:
        """Remove and return the key whose deadline is earliest and not after ``now``."""
        if self.next_deadline() > now:
            return None
        _, _, key = heapq.heappop(self._heap)
        del self._live[key]
        return key

    def _drop_stale(self) -> None:
        while self._heap:
            entry = self._heap[0]
            if self._live.get(entry[2]) is entry:
                return
            heapq.heappop(self._heap)
