"""The common knowledge of the adversary's machines, which they share without delay or traffic."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Final

from overlay.addresses import NodeId
from overlay.dht.messages import Contact
from sims.world.engine.keyspace import KeySpace

__all__ = ["AdversaryKnowledge"]

_MAX_ARCHIVED: Final = 100_000


@dataclass(slots=True)
class AdversaryKnowledge:
    """Settings and knowledge of the adversary, shared by all of its machines.

    Attributes:
        behaviours: what the machines do (``sims.scenario.sections.BEHAVIOURS``).
        drop_probability: probability that ``drop`` drops a request.
        rng: draws whether a request is dropped.
        members: ids of the machines, from which false answers name the nearest.
        contacts: the machines as contacts.
        archive: the oldest record of each node that any machine received.
        opening: the hops of circuits that clients open now, by the machine of the client.
    """

    behaviours: frozenset[str]
    drop_probability: float
    rng: Random
    members: KeySpace = field(default_factory=KeySpace)
    contacts: dict[int, Contact] = field(default_factory=dict)
    archive: dict[NodeId, bytes] = field(default_factory=dict)
    opening: dict[int, tuple[NodeId, ...]] = field(default_factory=dict)

    def enlist(self, contact: Contact) -> None:
        """Add a machine to the adversary."""
        number = int.from_bytes(contact.node_id, "big")
        self.members.add(number)
        self.contacts[number] = contact

    def nearest(self, target: NodeId, count: int) -> list[Contact]:
        """Return the adversary's nodes nearest to a target."""
        found = self.members.closest(int.from_bytes(target, "big"), count)
        return [self.contacts[number] for number in found]

    def remember(self, owner: NodeId, record: bytes) -> None:
        """Store a record, to return it when a newer one is valid."""
        if len(self.archive) < _MAX_ARCHIVED:
            self.archive.setdefault(owner, record)

    def denies(self, node_id: NodeId) -> bool:
        """Tell whether a node should break a circuit that is being opened through it.

        The adversary can link source and destination if it has the first and the last hop. It
        breaks every other circuit (selective denial of service, Borisov et al. 2007).
        """
        if "deny-circuits" not in self.behaviours:
            return False
        return any(
            node_id in hops and not (self._owns(hops[0]) and self._owns(hops[-1]))
            for hops in self.opening.values()
        )

    def _owns(self, node_id: NodeId) -> bool:
        return int.from_bytes(node_id, "big") in self.contacts
