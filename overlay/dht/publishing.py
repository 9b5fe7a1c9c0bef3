"""Keep this node's descriptor stored at the k nodes nearest to its id, and in its region.

The region is the distance within which k nodes are expected. An attacker can hide a record from the
k nearest nodes by k identities that are nearest to its key. Honest nodes in the region still
have the record then.

Only its owner stores a descriptor. It stores it again soon at first, because the near nodes of a
new node change, and later every ``republish_interval_s``. A descriptor that is signed again is
stored at once, and the intervals continue. If it names other endpoints, the series starts again.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from random import Random
from typing import Final

from overlay.addresses import NODE_ID_BYTES, NodeId
from overlay.dht.calls import Calls, VerifiedReply
from overlay.dht.descriptor import MixDescriptor
from overlay.dht.lookup import Lookup
from overlay.dht.membership import Membership
from overlay.dht.messages import Contact, Store, Stored
from overlay.dht.routing import flipped
from overlay.dht.schedule import Pace, Schedule, Task
from overlay.dht.settings import DhtSettings

__all__ = ["FIRST_REPUBLISH_S", "MOST_HOLDERS", "Publisher", "around"]

FIRST_REPUBLISH_S: Final = 60.0
MOST_HOLDERS: Final = 4
"""Largest number of nodes that hold the descriptor, in units of k."""


class Publisher:
    """This node's descriptor, and the nodes that hold it, at most 4 k."""

    def __init__(
        self,
        settings: DhtSettings,
        rng: Random,
        *,
        calls: Calls,
        schedule: Schedule,
        membership: Membership,
    ) -> None:
        self.descriptor: MixDescriptor | None = None
        self.holders: dict[NodeId, Contact] = {}
        self._asked: set[NodeId] = set()
        self._settings = settings
        self._rng = rng
        self._calls = calls
        self._schedule = schedule
        self._membership = membership
        self._pace = self._new_pace()

    @property
    def sequence(self) -> int:
        """The last published sequence number; 0 before any."""
        return self.descriptor.sequence if self.descriptor is not None else 0

    def replace(self, descriptor: MixDescriptor) -> None:
        """Set a new descriptor, which the next :meth:`store_at` stores.

        Raises:
            ValueError: its sequence number does not exceed the last one's.
        """
        last = self.descriptor
        is_new = last is None or descriptor.encoded != last.encoded
        if is_new and last is not None and descriptor.sequence <= last.sequence:
            raise ValueError("a published descriptor's sequence number must exceed the last")
        if last is not None and set(last.endpoints) != set(descriptor.endpoints):
            self._pace = self._new_pace()
        self.descriptor = descriptor

    def settle(self) -> None:
        """Use the longest interval, as a node that has been a member for a long time."""
        interval = self._settings.republish_interval_s
        self._pace = Pace(interval, interval, self._rng)

    def store_at(self, lookup: Lookup, now: float, reach: int = 0) -> None:
        """Store the descriptor at nodes that a lookup of this node's id found.

        These are the k nearest nodes and all within the distance ``reach``.
        """
        if self.descriptor is None or now >= self.descriptor.expires:
            return
        self._schedule.at(Task.PUBLISH, now + self._pace.next())
        self.holders.clear()
        self._asked.clear()
        self._store([*lookup.closest(), *lookup.within(reach)], now)

    def store_more(self, lookup: Lookup, now: float) -> None:
        """Also store it at the k nearest nodes that a lookup of another id of the region found."""
        self._store(lookup.closest(), now)

    def _store(self, contacts: list[Contact], now: float) -> None:
        if self.descriptor is None or now >= self.descriptor.expires:
            return
        request = Store(self.descriptor.encoded)
        for contact in contacts:
            if len(self._asked) >= MOST_HOLDERS * self._settings.k:
                return
            if contact.node_id not in self._asked:
                self._asked.add(contact.node_id)
                on_answer = partial(self._stored, contact)
                self._calls.start(request, contact.endpoint, contact.node_id, now, on_answer)

    def _stored(self, contact: Contact, answer: VerifiedReply | None, now: float) -> None:
        if answer is None:
            self._membership.silent(contact, now)
        elif isinstance(answer.reply, Stored) and answer.reply.accepted:
            self.holders[contact.node_id] = contact

    def _new_pace(self) -> Pace:
        interval = self._settings.republish_interval_s
        return Pace(min(FIRST_REPUBLISH_S, interval), interval, self._rng)


def around(node_id: NodeId, reach: int, k: int) -> Iterator[NodeId]:
    """Yield ids near ``node_id``, whose lookups find the honest nodes of its region.

    If an attacker's nodes surround an id, answers about that id contain no honest nodes. Answers
    about ids with one flipped bit still do. The ids reach from twice the size of the region down
    to a distance within which less than one honest node is expected.
    """
    top = min(reach.bit_length(), 8 * NODE_ID_BYTES - 1)
    for bit in range(max(0, top - 1 - k.bit_length()), top + 1):
        yield flipped(node_id, bit)
