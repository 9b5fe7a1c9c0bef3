"""Overlays with ideal routing tables, and lookups over them without messages.

The tables are the product's ``Table`` objects, filled with random nodes of each bucket's range.
The lookups are the product's ``Lookup`` objects. There is no network: a query is answered at
once from the table of the node that it is for. A table is built when it is first needed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from random import Random
from typing import Final

from overlay.addresses import NODE_ID_BYTES, Endpoint, NodeId
from overlay.dht.lookup import Lookup, Query
from overlay.dht.messages import Contact, Contacts, Reply
from overlay.dht.routing import Entry, Table
from overlay.dht.settings import DhtSettings
from sims.world.engine.keyspace import ID_BITS, KeySpace

__all__ = ["IdealOverlay", "as_id", "contact_of", "drive", "random_ids"]

_FIRST_ADDRESS: Final = 0x0B000001
_PORTS: Final = 60_000

AnswerTo = Callable[[Query], Reply | None]
"""Returns the answer to a query, or None if the node does not answer."""


def as_id(number: int) -> NodeId:
    """Return a number as an id of 20 bytes."""
    return NodeId(number.to_bytes(NODE_ID_BYTES, "big"))


def random_ids(count: int, rng: Random) -> list[int]:
    """Return random ids that all differ."""
    ids: dict[int, None] = {}
    while len(ids) < count:
        ids[rng.getrandbits(ID_BITS)] = None
    return list(ids)


def contact_of(number: int, index: int) -> Contact:
    """Return a contact with a unique address and a placeholder as key."""
    address = _FIRST_ADDRESS + 256 * index
    return Contact(as_id(number), Endpoint.from_packed(address.to_bytes(4, "big"), 4500), bytes(32))


class IdealOverlay:
    """An overlay of ids and the routing table of each node.

    Args:
        ids: the ids of all nodes.
        settings: ``k`` is the capacity of a bucket and the number of contacts in an answer.
        rng: draws the contacts.
        dead: ids that died after all tables were built; tables know that calls to them fail.
        with_replacement: draw k contacts a bucket one after the other, so that small buckets
            hold fewer (as the published figures of static resilience assume).
    """

    def __init__(
        self,
        ids: Iterable[int],
        settings: DhtSettings,
        rng: Random,
        *,
        dead: Iterable[int] = (),
        with_replacement: bool = False,
    ) -> None:
        self.settings = settings
        self.dead = frozenset(dead)
        self.contacts = {number: contact_of(number, i) for i, number in enumerate(ids)}
        self.keys = KeySpace()
        for number in sorted(self.contacts):
            self.keys.add(number)
        self._rng = rng
        self._with_replacement = with_replacement
        self._tables: dict[int, Table] = {}

    def table(self, number: int) -> Table:
        """Return the routing table of a node."""
        table = self._tables.get(number)
        if table is None:
            table = self._tables[number] = self._build(number)
        return table

    def look_up(
        self, source: int, target: int, settings: DhtSettings, *, only_nearer: bool = False
    ) -> Lookup:
        """Return a new lookup of ``target`` that begins with the contacts of ``source``.

        ``only_nearer`` leaves out those that are not nearer than the source, as a greedy walk
        does.
        """
        start = self.table(source).closest(as_id(target), settings.k, alive=bool(self.dead))
        if only_nearer:
            gap = source ^ target
            start = [one for one in start if int.from_bytes(one.node_id, "big") ^ target < gap]
        return Lookup(as_id(target), as_id(source), start, settings, 0.0)

    def answer(self, query: Query, count: int) -> Contacts | None:
        """Answer FIND_NODE as a node does: with its nearest contacts that it believes alive."""
        number = int.from_bytes(query.contact.node_id, "big")
        if number in self.dead:
            return None
        target = getattr(query.request, "target")  # noqa: B009 - FIND_NODE is all that is asked
        return Contacts(tuple(self.table(number).closest(target, count, alive=True)))

    def _build(self, number: int) -> Table:
        table = Table(as_id(number), self.settings, self._rng)
        for bit in range(ID_BITS):
            for other in self._members(number, bit):
                contact = self.contacts[other]
                table.add_contact(Entry(contact, contact.endpoint.packed, 0.0))
                if other in self.dead:
                    table.failed(contact)
            if len(self.keys.with_prefix(number, bit + 1)) <= 1:
                break
        return table

    def _members(self, number: int, bit: int) -> list[int]:
        k = self.settings.k
        if not self._with_replacement:
            return self.keys.bucket(number, bit, k, self._rng)
        everybody = self.keys.bucket(number, bit, len(self.contacts), self._rng)
        if not everybody:
            return []
        return sorted({self._rng.choice(everybody) for _ in range(k)})


def drive(lookup: Lookup, answer: AnswerTo, *, until: NodeId | None = None) -> None:
    """Run a lookup to its end, or until it is about to ask the node ``until``."""
    pending: deque[Query] = deque(lookup.queries(0.0))
    while pending:
        query = pending.popleft()
        if query.contact.node_id == until:
            return
        reply = answer(query)
        if reply is None:
            lookup.failed(query)
        else:
            lookup.answered(query, reply, 0.0)
        pending.extend(lookup.queries(0.0))
