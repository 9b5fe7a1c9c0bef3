"""How far this host's clock is off, as the nodes say that answered a ping.

What is signed counts for 10 minutes of difference at most. A node with a wrong clock joins, and
then knows no other node and is known to none. It cannot tell who is right, so it sets nothing:
it tells its user how far the others are away.

A node that lies shifts the median of all by little, and a wrong number does no harm.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from statistics import median
from typing import Final

from overlay.addresses import NodeId
from overlay.dht.messages import Contact, Pong

__all__ = ["ClockOffset", "ClockWatch"]

_MAX_PEERS: Final = 32
"""Nodes whose latest word counts; the one heard longest ago is forgotten first."""

_VALID_S: Final = 3600.0
"""Older words do not count: the clocks may have been set since."""


@dataclass(frozen=True, slots=True)
class ClockOffset:
    """This host's clock is ``ahead_s`` seconds ahead of ``peers`` others; negative: behind."""

    ahead_s: float
    peers: int


class ClockWatch:
    """What nodes said of the time, compared with ours."""

    def __init__(self) -> None:
        self._ahead: OrderedDict[NodeId, tuple[float, float]] = OrderedDict()

    def heard(self, node_id: NodeId, time_s: float, now: float) -> None:
        """Take what a node said at ``now``, in an answer that no other node can have made."""
        self._ahead.pop(node_id, None)
        self._ahead[node_id] = (now - time_s, now)
        if len(self._ahead) > _MAX_PEERS:
            self._ahead.popitem(last=False)

    def heard_pong(self, contact: Contact, pong: Pong, now: float) -> None:
        """Take the answer of a node to a ping."""
        self.heard(contact.node_id, pong.time_s, now)

    def offset(self, now: float) -> ClockOffset | None:
        """Return the median of what was heard within the last hour, None if nothing was."""
        found = [ahead for ahead, when in self._ahead.values() if now - when <= _VALID_S]
        return ClockOffset(median(found), len(found)) if found else None
