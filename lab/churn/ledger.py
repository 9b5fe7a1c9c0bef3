"""Counters of nodes that come and go, summed over their sessions after the warm-up."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

__all__ = ["CounterTotals"]


class CounterTotals:
    """Adds up what each node's counters gained, and how long the node was there."""

    def __init__(self) -> None:
        self._open: dict[int, tuple[float, Mapping[str, int]]] = {}
        self._gained: defaultdict[int, Counter[str]] = defaultdict(Counter)
        self._seconds: Counter[int] = Counter()

    def begin(self, node: int, time_s: float, counters: Mapping[str, int]) -> None:
        """A node is watched from now on; its counters stand at these values."""
        self._open[node] = time_s, dict(counters)

    def end(self, node: int, time_s: float, counters: Mapping[str, int] | None) -> None:
        """A node is gone, or the run over. None: its last values are lost, as is its session."""
        began, before = self._open.pop(node, (time_s, {}))
        if counters is None or time_s <= began:
            return
        self._seconds[node] += time_s - began  # type: ignore[assignment]  # counts of seconds
        for name, value in counters.items():
            self._gained[node][name] += value - before.get(name, 0)

    def total(self, name: str) -> int:
        """Return what all nodes together gained."""
        return sum(gained[name] for gained in self._gained.values())

    def rates(self, name: str) -> tuple[float, ...]:
        """Return what each node gained in a second of its presence."""
        return tuple(
            gained[name] / self._seconds[node]
            for node, gained in sorted(self._gained.items())
            if self._seconds[node] >= 1
        )
