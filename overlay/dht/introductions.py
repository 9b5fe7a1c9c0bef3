"""What the word of a subnet about others is worth during one crawl.

A crawl asks whoever it hears of. Identities of one /24 that answer and introduce inventions could
keep it busy to the end of its time, and fill what it may remember. So a subnet is charged for
everybody that it was the first to name, until they answer, and it is believed no more when too
many of them stayed silent: whom no other subnet names is not asked. One node introduces at most
three times k others, so one that shares its subnet with nobody is never disbelieved for naming the
dead of a mass failure.

Reasons: docs/decisions/0032.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

__all__ = ["MAX_OPEN_K", "MAX_SILENT_K", "Introductions"]

MAX_SILENT_K: Final = 3
"""A subnet loses its credit by more silent introductions than one node can make: 3 k."""

MAX_OPEN_K: Final = 12
"""So many times k that have not answered are kept in mind for one subnet."""


class Introductions:
    """Counts by introducing subnet; None stands for this node's own table, which is believed.

    Args:
        k: contacts in a reply.
    """

    def __init__(self, k: int) -> None:
        self._max_silent, self._max_open = MAX_SILENT_K * k, MAX_OPEN_K * k
        self._open: Counter[bytes] = Counter()
        self._silent: Counter[bytes] = Counter()

    def believed(self, introducer: bytes | None) -> bool:
        """Tell whether those that it introduced should be asked."""
        return introducer is None or self._silent[introducer] <= self._max_silent

    def may_add(self, introducer: bytes | None) -> bool:
        """Tell whether one more that it introduces should be kept in mind."""
        return introducer is None or (
            self.believed(introducer) and self._open[introducer] < self._max_open
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
