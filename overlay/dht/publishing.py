"""Keeping this node's own descriptor stored with the k nodes nearest to it, and in its region.

The region is the distance within which k nodes are expected. Whoever wants to hide a record
places k identities nearest to its key; the honest nodes of the region hold it nevertheless.

Only its owner stores a descriptor, and stores it again on schedule: soon at first, while the
overlay around a newcomer changes, then each ``republish_interval_s``. One that is merely signed
anew is stored at once and keeps that pace; one that names other endpoints begins anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from random import Random
from typing import Final

from overlay.addresses import NODE_ID_BYTES, NodeId
from overlay.dht.calls import Answer, Calls
from overlay.dht.descriptor import MixDescriptor
from overlay.dht.lookup import Lookup
from overlay.dht.messages import Contact, Store, Stored
from overlay.dht.routing import flipped
from overlay.dht.schedule import Pace, Schedule, Task
from overlay.dht.settings import DhtSettings

__all__ = ["Publisher", "around"]

_FIRST_REPUBLISH_S: Final = 60.0
_MOST_HOLDERS: Final = 4
"""How many times k nodes hold the descriptor at most."""


class Publisher:
    """The own descriptor, and the at most 4 k nodes that hold it."""

    def __init__(
        self,
        settings: DhtSettings,
        rng: Random,
        *,
        clock: Callable[[], float],
        calls: Calls,
        schedule: Schedule,
        on_silence: Callable[[Contact], None],
    ) -> None:
        self.descriptor: MixDescriptor | None = None
        self.holders: dict[NodeId, Contact] = {}
        self._asked: set[NodeId] = set()
        self._settings = settings
        self._rng = rng
        self._clock = clock
        self._calls = calls
        self._schedule = schedule
        self._on_silence = on_silence
        self._pace = self._new_pace()

    @property
    def sequence(self) -> int:
        """The last published sequence number; 0 before any."""
        return self.descriptor.sequence if self.descriptor is not None else 0

    def replace(self, descriptor: MixDescriptor) -> None:
        """Take a new descriptor, to be stored from the next :meth:`store_at` on.

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
        """Take the pace of a node that has been a member for long."""
        interval = self._settings.republish_interval_s
        self._pace = Pace(interval, interval, self._rng)

    def store_at(self, lookup: Lookup, reach: int = 0) -> None:
        """Store the descriptor with those whom a lookup of our id found.

        These are the k nearest, and all within ``reach`` (of the key space) of our id.
        """
        now = self._clock()
        if self.descriptor is None or now >= self.descriptor.expires:
            return
        self._schedule.at(Task.PUBLISH, now + self._pace.next())
        self.holders.clear()
        self._asked.clear()
        self._store([*lookup.closest(), *lookup.within(reach)])

    def store_more(self, lookup: Lookup) -> None:
        """Store it with the k nearest nodes that a lookup elsewhere in our region found, too."""
        self._store(lookup.closest())

    def _store(self, contacts: list[Contact]) -> None:
        now = self._clock()
        if self.descriptor is None or now >= self.descriptor.expires:
            return
        request = Store(self.descriptor.encoded)
        for contact in contacts:
            if len(self._asked) >= _MOST_HOLDERS * self._settings.k:
                return
            if contact.node_id not in self._asked:
                self._asked.add(contact.node_id)
                on_answer = partial(self._stored, contact)
                self._calls.start(request, contact.endpoint, contact.node_id, now, on_answer)

    def _stored(self, contact: Contact, answer: Answer | None) -> None:
        if answer is None:
            self._on_silence(contact)
        elif isinstance(answer.reply, Stored) and answer.reply.accepted:
            self.holders[contact.node_id] = contact

    def _new_pace(self) -> Pace:
        interval = self._settings.republish_interval_s
        return Pace(min(_FIRST_REPUBLISH_S, interval), interval, self._rng)


def around(node_id: NodeId, reach: int, k: int) -> Iterator[NodeId]:
    """Yield ids around ``node_id`` whose neighbours are the honest members of its region.

    Nodes that surround our id crowd its honest neighbours out of every answer about it, but not
    out of answers about ids with one bit of ours flipped: from twice the region's reach down to
    where less than one honest node is expected, each has its neighbours.
    """
    top = min(reach.bit_length(), 8 * NODE_ID_BYTES - 1)
    for bit in range(max(0, top - 1 - k.bit_length()), top + 1):
        yield flipped(node_id, bit)
