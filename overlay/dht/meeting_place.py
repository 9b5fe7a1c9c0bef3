"""This node as a meeting place of others that are behind one NAT.

It tells a node whether another one has asked from the same address, which a cookie has proved, and
hands over what each left for the other. What they leave is sealed, so this node does not learn it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Final, NamedTuple

from overlay.addresses import NodeId
from overlay.dht.admission import SourceLimiter, prefix_of
from overlay.dht.help_messages import Meet, Met
from overlay.dht.messages import Contact

__all__ = ["KEPT_S", "MAX_LEFT", "MAX_LEFT_OF_ADDRESS", "MeetingPlace"]

KEPT_S: Final = 600.0
"""How long a node counts as present after it has asked."""

MAX_LEFT: Final = 1024
MAX_LEFT_OF_ADDRESS: Final = 64
"""Eight nodes behind one address that all look for each other."""

_RATE_PER_S: Final = 2.0
_BURST: Final = 64


class _Pair(NamedTuple):
    address: bytes
    asker: NodeId
    target: NodeId


class MeetingPlace:
    """Remembers at most 1,024 questions, 64 of one address, for 10 minutes."""

    def __init__(self) -> None:
        self._left: OrderedDict[_Pair, tuple[float, bytes]] = OrderedDict()
        self._of_address: Counter[bytes] = Counter()
        self._limiter = SourceLimiter(_RATE_PER_S, _BURST)

    def meet(self, request: Meet, asker: Contact, now: float) -> Met:
        """Keep what the asker leaves, and return what its target has left for it."""
        address = asker.endpoint.packed
        self._forget(now)
        if not self._limiter.allow(prefix_of(asker.endpoint), now):
            return Met(present=False, sealed=b"")
        pair = _Pair(address, asker.node_id, request.target)
        self._drop(pair)
        if self._of_address[address] < MAX_LEFT_OF_ADDRESS:
            self._left[pair] = (now, request.sealed)
            self._of_address[address] += 1
        found = self._left.get(_Pair(address, request.target, asker.node_id))
        return Met(present=found is not None, sealed=found[1] if found is not None else b"")

    def _forget(self, now: float) -> None:
        while self._left:
            pair, (since, _) = next(iter(self._left.items()))
            if len(self._left) < MAX_LEFT and now - since < KEPT_S:
                return
            self._drop(pair)

    def _drop(self, pair: _Pair) -> None:
        if self._left.pop(pair, None) is not None:
            self._of_address[pair.address] -= 1
            if not self._of_address[pair.address]:
                del self._of_address[pair.address]
