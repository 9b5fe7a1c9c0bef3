"""Addresses to which this node has sent lately, so that a NAT may let packets from there pass."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from overlay.addresses import Endpoint

__all__ = ["MAX_CONTACTED", "Contacted"]

_FILTER_MEMORY_S: Final = 300.0
"""How long a NAT or stateful filter may remember a datagram: RFC 4787 asks for 2 minutes at least
and recommends 5, and Linux keeps a UDP flow for 30 s to 2 minutes."""

MAX_CONTACTED: Final = 8192
"""Entries; two for each endpoint, those of its address and of its address with port."""


class Contacted:
    """What this node has sent to within the last 5 minutes; at most 4,096 endpoints.

    ``active`` is set while tests need it. Otherwise nothing is recorded.
    """

    def __init__(self) -> None:
        self.active = False
        self._since: OrderedDict[bytes, float] = OrderedDict()

    def note(self, endpoint: Endpoint, now: float) -> None:
        """Record that a datagram leaves for ``endpoint``, if this is ``active``."""
        if not self.active:
            return
        since, packed = self._since, endpoint.packed
        for key in (packed, packed + endpoint.port.to_bytes(2, "big")):
            since[key] = now
            since.move_to_end(key)
        while len(since) > MAX_CONTACTED:
            since.popitem(last=False)

    def holds_endpoint(self, endpoint: Endpoint, now: float) -> bool:
        """Tell whether this node sent to this address and port lately."""
        return self._is_recent(endpoint.packed + endpoint.port.to_bytes(2, "big"), now)

    def holds_address(self, endpoint: Endpoint, now: float) -> bool:
        """Tell whether this node sent to this address lately, whatever the port."""
        return self._is_recent(endpoint.packed, now)

    def _is_recent(self, key: bytes, now: float) -> bool:
        return now - self._since.get(key, float("-inf")) < _FILTER_MEMORY_S
