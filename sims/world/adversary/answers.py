"""Attacks on lookups: false answers and dropped requests.

The node runs the product's core, which answers every request. The adversary changes a reply before
it is signed, or drops a request before the core sees it. So the product needs no hook for it. PING,
STORE and LEAVE are answered correctly, so that the node stays in tables.
"""

from __future__ import annotations

from typing import ClassVar, Final

from overlay.addresses import NodeId
from overlay.dht.envelope import UnverifiedRequest
from overlay.dht.messages import Contacts, FindNode, FindRecord, Record, Reply, contacts_that_fit
from overlay.dht.messages import Store as StoreRequest
from sims.world.adversary.attack import Attack, AttackContext

__all__ = ["DropAttack", "ForgeAttack", "LieAttack", "ReplayAttack", "forged"]

_FLIPPED_BYTE: Final = -70
"""Index of a byte in the body, before the signature."""

_MAX_ARCHIVED: Final = 100_000


class DropAttack(Attack):
    """``drop``: do not answer requests for contacts and records."""

    def __init__(self, context: AttackContext) -> None:
        self._probability = context.settings.drop_probability
        self._rng = context.world.streams.stream("adversary", "drops")

    def drops(self, request: UnverifiedRequest) -> bool:
        """Drop a request with the probability of the scenario, if it has a cookie."""
        asked = isinstance(request.request, FindNode | FindRecord)
        return asked and bool(request.cookie) and self._rng.random() < self._probability


class ReplayAttack(Attack):
    """``replay``: return the oldest record that any malicious node has received."""

    order: ClassVar[int] = 1

    def __init__(self, _context: AttackContext) -> None:
        self._archive: dict[NodeId, bytes] = {}

    def reply(self, node_id: NodeId, honest: Reply, request: UnverifiedRequest) -> Reply | None:  # noqa: ARG002 - the interface's
        """Store each record, and return it when a newer one is valid."""
        match request.request:
            case StoreRequest(record) if len(self._archive) < _MAX_ARCHIVED:
                self._archive.setdefault(request.sender, record)
            case FindRecord(key) if key != node_id and key in self._archive:
                return Record(self._archive[key])
            case _:
                pass
        return None


class ForgeAttack(Attack):
    """``forge``: return the true record of a node with changed content."""

    order: ClassVar[int] = 2

    def __init__(self, context: AttackContext) -> None:
        self._world = context.world

    def reply(self, node_id: NodeId, honest: Reply, request: UnverifiedRequest) -> Reply | None:  # noqa: ARG002 - the interface's
        """Return a forged record of any node but the own one."""
        asked = request.request
        if not isinstance(asked, FindRecord) or asked.key == node_id:
            return None
        machine = self._world.by_number.get(int.from_bytes(asked.key, "big"))
        descriptor = machine.descriptor if machine is not None else None
        return Record(forged(descriptor.encoded)) if descriptor is not None else None


class LieAttack(Attack):
    """``lie``: name nodes of the adversary as the nearest ones."""

    order: ClassVar[int] = 3

    def __init__(self, context: AttackContext) -> None:
        self._knowledge = context.knowledge
        self._k = context.world.settings.k

    def reply(self, node_id: NodeId, honest: Reply, request: UnverifiedRequest) -> Reply | None:  # noqa: ARG002 - the interface's
        """Return the nodes of the adversary nearest to the target or key."""
        match request.request:
            case FindNode(target):
                return self._lie(target)
            case FindRecord(key) if key != node_id:
                return self._lie(key)
            case _:
                return None

    def _lie(self, target: NodeId) -> Contacts:
        return contacts_that_fit(self._knowledge.nearest(target, self._k), self._k)


def forged(record: bytes) -> bytes:
    """Return a record with changed content and the old signature."""
    changed = bytearray(record)
    changed[_FLIPPED_BYTE] ^= 1
    return bytes(changed)
