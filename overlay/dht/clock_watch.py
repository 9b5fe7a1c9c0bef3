"""Estimate how far this host's clock is off, from the times in answers to pings.

Signed messages are accepted if clocks differ by at most 10 minutes. So a node with a wrong clock
rejects the descriptors of all others, and they reject its own. It cannot know which clock is right.
Therefore it does not set the clock and only tells its user the difference.

A node with a false time changes the median of all times only little, and nothing depends on it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from statistics import median
from typing import Final

from overlay.addresses import NodeId

__all__ = ["MAX_PEERS", "ClockOffset", "ClockWatch"]

MAX_PEERS: Final = 32
"""Number of nodes whose latest time counts; the oldest one is removed first."""

_VALID_S: Final = 3600.0
"""Age in seconds at which times no longer count, because clocks may have been set since."""


@dataclass(frozen=True, slots=True)
class ClockOffset:
    """This host's clock is ``ahead_s`` seconds ahead of ``peers`` others; negative: behind."""

    ahead_s: float
    peers: int


class ClockWatch:
    """The times of other nodes, compared with the time of this host."""

    def __init__(self) -> None:
        self._ahead: OrderedDict[NodeId, tuple[float, float]] = OrderedDict()

    def heard(self, node_id: NodeId, time_s: float, now: float) -> None:
        """Record the time in an authenticated answer of a node that arrived at ``now``."""
        self._ahead.pop(node_id, None)
        self._ahead[node_id] = (now - time_s, now)
        if len(self._ahead) > MAX_PEERS:
            self._ahead.popitem(last=False)

    def offset(self, now: float) -> ClockOffset | None:
        """Return the median offset of the last hour, or None if no time was received."""
        found = [ahead for ahead, when in self._ahead.values() if now - when <= _VALID_S]
        return ClockOffset(median(found), len(found)) if found else None
