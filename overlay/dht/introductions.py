"""What the word of a subnet about others is worth during one crawl.

A crawl asks whoever it hears of. Identities of one /24 that answer and introduce inventions could
keep it busy to the end of its time, and fill what it may remember. So a subnet is charged for
everybody that it was the first to name, until they answer, and it is believed no more when too
many of them stayed silent: whom no other subnet names is not asked. One node introduces at most
three times k others, so one that shares its subnet with nobody is never disbelieved for naming the
dead of a mass failure.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

__all__ = ["MAX_OPEN", "MAX_SILENT", "Introductions"]

MAX_SILENT: Final = 64
"""So many silent introductions cost a subnet its credit: more than the 60 of one node (k = 20)."""

MAX_OPEN: Final = 256
"""So many that have not answered are kept in mind for one subnet."""


class Introductions:
    """Counts by introducing subnet; None stands for this node's own table, which is believed."""

    def __init__(self) -> None:
        self._open: Counter[bytes] = Counter()
        self._silent: Counter[bytes] = Counter()

    def believed(self, introducer: bytes | None) -> bool:
        """Tell whether those that it introduced should be asked."""
        return introducer is None or self._silent[introducer] < MAX_SILENT

    def may_add(self, introducer: bytes | None) -> bool:
        """Tell whether one more that it introduces should be kept in mind."""
        return introducer is None or (
            self.believed(introducer) and self._open[introducer] < MAX_OPEN
        )

    def add(self, introducer: bytes | None) -> None:
        """Charge it for one that it was the first to name."""
        if introducer is not None:
            self._open[introducer] += 1

    def answered(self, introducer: bytes | None) -> None:
        """Learn that one of them is there."""
        if introducer is not None:
            self._open[introducer] -= 1

    def silent(self, introducer: bytes | None) -> None:
        """Learn that one of them did not answer."""
        if introducer is not None:
            self._silent[introducer] += 1
