"""Sum the counters of nodes over their sessions after the warm-up."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

__all__ = ["CounterTotals"]


class CounterTotals:
    """Sum the increases of each node's counters, and the time for which the node was on line."""

    def __init__(self) -> None:
        self._open: dict[int, tuple[float, Mapping[str, int]]] = {}
        self._gained: defaultdict[int, Counter[str]] = defaultdict(Counter)
        self._seconds: Counter[int] = Counter()

    def begin(self, node: int, time_s: float, counters: Mapping[str, int]) -> None:
        """Begin a session of a node whose counters have these values now."""
        self._open[node] = time_s, dict(counters)

    def end(self, node: int, time_s: float, counters: Mapping[str, int] | None) -> None:
        """End a node's session; with None its last values are lost, and the session with them."""
        began, before = self._open.pop(node, (time_s, {}))
        if counters is None or time_s <= began:
            return
        self._seconds[node] += time_s - began  # type: ignore[assignment]  # counts of seconds
        for name, value in counters.items():
            self._gained[node][name] += value - before.get(name, 0)

    def total(self, name: str) -> int:
        """Return the increase of all nodes together."""
        return sum(gained[name] for gained in self._gained.values())

    def rates(self, name: str) -> tuple[float, ...]:
        """Return the increase of each node per second on line."""
        return tuple(
            gained[name] / self._seconds[node]
            for node, gained in sorted(self._gained.items())
            if self._seconds[node] >= 1
        )
