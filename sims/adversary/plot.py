"""What the adversary's machines know in common: they collude, without delay or traffic."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Final

from overlay.addresses import NodeId
from overlay.dht.messages import Contact
from sims.engine.keyspace import KeySpace

__all__ = ["Plot"]

_MAX_ARCHIVED: Final = 100_000


@dataclass(slots=True)
class Plot:
    """The adversary's plan and memory, shared by all of its machines.

    Attributes:
        behaviours: what they do (``sims.scenario.sections.BEHAVIOURS``).
        drop_probability: how often ``drop`` drops.
        rng: of the draws for that.
        members: ids of the machines, so that lies name the nearest of them.
        contacts: the same as contacts.
        archive: the oldest record of each node that any of them was given.
        opening: the hops of circuits that are being opened, by the client's machine.
    """

    behaviours: frozenset[str]
    drop_probability: float
    rng: Random
    members: KeySpace = field(default_factory=KeySpace)
    contacts: dict[int, Contact] = field(default_factory=dict)
    archive: dict[NodeId, bytes] = field(default_factory=dict)
    opening: dict[int, tuple[NodeId, ...]] = field(default_factory=dict)

    def enlist(self, contact: Contact) -> None:
        """A machine joins the adversary."""
        number = int.from_bytes(contact.node_id, "big")
        self.members.add(number)
        self.contacts[number] = contact

    def nearest(self, target: NodeId, count: int) -> list[Contact]:
        """Return the adversary's nodes nearest to a target."""
        found = self.members.closest(int.from_bytes(target, "big"), count)
        return [self.contacts[number] for number in found]

    def remember(self, owner: NodeId, record: bytes) -> None:
        """Keep a record to show it again when a newer one is in force."""
        if len(self.archive) < _MAX_ARCHIVED:
            self.archive.setdefault(owner, record)

    def denies(self, node_id: NodeId) -> bool:
        """Tell whether a circuit that the adversary cannot see through is being opened over a node.

        It sees through a circuit whose first and last hop are its own, and kills every other
        (selective denial of service, Borisov et al. 2007).
        """
        if "deny-circuits" not in self.behaviours:
            return False
        return any(
            node_id in hops and not (self._owns(hops[0]) and self._owns(hops[-1]))
            for hops in self.opening.values()
        )

    def _owns(self, node_id: NodeId) -> bool:
        return int.from_bytes(node_id, "big") in self.contacts
