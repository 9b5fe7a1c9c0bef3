"""The common knowledge of the adversary's machines, which they share without delay or traffic."""

from __future__ import annotations

from overlay.addresses import NodeId
from overlay.dht.messages import Contact
from sims.world.engine.keyspace import KeySpace

__all__ = ["AdversaryKnowledge"]


class AdversaryKnowledge:
    """The malicious nodes that have started, from which false answers name the nearest."""

    def __init__(self) -> None:
        self._members = KeySpace()
        self._contacts: dict[int, Contact] = {}

    def enlist(self, contact: Contact) -> None:
        """Add a node to the adversary."""
        number = int.from_bytes(contact.node_id, "big")
        self._members.add(number)
        self._contacts[number] = contact

    def nearest(self, target: NodeId, count: int) -> list[Contact]:
        """Return the adversary's nodes nearest to a target."""
        found = self._members.closest(int.from_bytes(target, "big"), count)
        return [self._contacts[number] for number in found]

    def owns(self, node_id: NodeId) -> bool:
        """Tell whether a node belongs to the adversary."""
        return int.from_bytes(node_id, "big") in self._contacts
