"""Limit introductions per subnet during a crawl.

A crawl asks every node that it learns about. An attacker with identities in one /24 could name
invented nodes until the time and the memory of the crawl are used up. So every node counts for the
subnet that named it first, until the node answers. If too many of a subnet's nodes did not answer,
nodes that only this subnet names are not asked. One node introduces at most 3 k others. So a node
that is alone in its subnet does not reach the limit, even if it names departed nodes.

Reasons: docs/decisions/0032.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

__all__ = ["MAX_OPEN_K", "MAX_SILENT_K", "Introductions"]

MAX_SILENT_K: Final = 3
"""Limit of introductions without an answer, in units of k: as many as one node can make."""

MAX_OPEN_K: Final = 12
"""Nodes without an answer yet that are remembered per subnet, in units of k."""


class Introductions:
    """Counts per introducing subnet. None stands for this node's own table, which has no limit.

    Args:
        k: contacts in a reply.
    """

    def __init__(self, k: int) -> None:
        self._max_silent, self._max_open = MAX_SILENT_K * k, MAX_OPEN_K * k
        self._open: Counter[bytes] = Counter()
        self._silent: Counter[bytes] = Counter()

    def believed(self, introducer: bytes | None) -> bool:
        """Tell whether nodes that the subnet introduced should be asked."""
        return introducer is None or self._silent[introducer] <= self._max_silent

    def may_add(self, introducer: bytes | None) -> bool:
        """Tell whether one more introduction of the subnet should be remembered."""
        return introducer is None or (
            self.believed(introducer) and self._open[introducer] < self._max_open
        )

    def add(self, introducer: bytes | None) -> None:
        """Count a node that the subnet was the first to name."""
        if introducer is not None:
            self._open[introducer] += 1

    def answered(self, introducer: bytes | None) -> None:
        """Record that one of its nodes answered."""
        if introducer is not None:
            self._open[introducer] -= 1

    def silent(self, introducer: bytes | None) -> None:
        """Record that one of its nodes did not answer."""
        if introducer is not None:
            self._silent[introducer] += 1
