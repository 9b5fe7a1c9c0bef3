"""The contacts that may help with tests of reachability."""

from __future__ import annotations

from random import Random
from typing import Final

from overlay.addresses import NODE_ID_BYTES, NodeId, version_of
from overlay.dht.acceptance import Acceptance
from overlay.dht.messages import Contact
from overlay.dht.reach import KnownEndpoints, towards
from overlay.dht.routing import Table

__all__ = ["LiveContacts"]

_MOST_CONTACTS: Final = 256


class LiveContacts:
    """Draws live contacts from the routing table, in random order.

    A contact counts with an endpoint of its verified descriptor if the wanted IP version is there.
    """

    def __init__(
        self, table: Table, acceptance: Acceptance, known_endpoints: KnownEndpoints, rng: Random
    ) -> None:
        self._table = table
        self._acceptance = acceptance
        self._known_endpoints = known_endpoints
        self._rng = rng

    def __call__(self, version: int) -> list[Contact]:
        """Return up to 256 live contacts at endpoints of an IP version, in random order."""
        start = NodeId(self._rng.randbytes(NODE_ID_BYTES))
        wanted = frozenset((version,))
        near = self._table.closest(start, _MOST_CONTACTS, alive=True)
        found = [towards(wanted, each, self._known_endpoints) for each in near]
        usable = [
            each
            for each in found
            if version_of(each.endpoint) == version and self._acceptance.allows(each.endpoint)
        ]
        self._rng.shuffle(usable)
        return usable
