"""The product's DHT core with four additions for simulations.

``resume`` starts a node in the middle of a long session instead of with a join. ``end`` releases
all parts at once. ``probe`` starts a measured lookup, which a real node never does for a single
node. ``crawling`` tells whether the node fills a topology table. Relays may omit it, because they
open no circuits, and because crawls of N nodes by N nodes dominate the cost of large simulations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from random import Random
from typing import Final

from overlay.addresses import Endpoint, NodeId
from overlay.dht.calls import VerifiedReply
from overlay.dht.core import Dht
from overlay.dht.descriptor import MixDescriptor
from overlay.dht.envelope import Envelopes
from overlay.dht.lookup import Lookup
from overlay.dht.membership import Phase
from overlay.dht.messages import Contact, FindRecord, Record
from overlay.dht.schedule import Pace, Task
from overlay.dht.settings import DhtSettings
from overlay.dht.storage import VerifyRecord
from overlay.errors import PeerError
from overlay.identity import LocalIdentity

__all__ = ["SimulatedDht"]

_HOLDERS_WANTED: Final = 3
"""Number of holders to ask, as in a crawl (``overlay.dht.crawl``)."""

_FIRST_CRAWL_WITHIN_S: Final = 60.0

OnLookup = Callable[[Lookup], None]
OnRecord = Callable[[MixDescriptor | None, int], None]
"""Receives the descriptor, or None if no node had a valid one, and the number of nodes asked."""


# Large: it has the methods of the product's Dht.
class SimulatedDht(Dht):
    """The DHT core of one simulated node."""

    def __init__(
        self,
        identity: LocalIdentity,
        *,
        network_id: str,
        settings: DhtSettings,
        rng: Random,
        endpoints: tuple[Endpoint, ...],
        envelopes: Envelopes,
        crawling: bool,
        verify_record: VerifyRecord,
    ) -> None:
        super().__init__(
            identity,
            network_id=network_id,
            settings=settings,
            rng=rng,
            endpoints=endpoints,
            envelopes=envelopes,
            verify_record=verify_record,
        )
        self.crawling = crawling

    @property
    def joined(self) -> bool:
        """Whether the node is a member now."""
        return self._membership.phase is Phase.JOINED

    @property
    def table(self) -> list[Contact]:
        """The contacts of the whole routing table."""
        return list(self._table)

    def buckets(self) -> list[list[Contact]]:
        """Return the contacts of each bucket, replacements included."""
        return [[entry.contact for entry in bucket.entries()] for bucket in self._table.buckets]

    def holds(self, node_id: NodeId) -> MixDescriptor | None:
        """Return the unexpired descriptor of another node that is stored here."""
        return self._store.find(node_id)

    def crawl(self, now: float) -> None:
        """Crawl, unless this node does not crawl."""
        if self.crawling:
            super().crawl(now)

    def seed_with(self, contacts: Iterable[Contact], now: float) -> None:
        """Contact the nodes known from an earlier session, as :meth:`seed` does."""
        self._be_present(now)
        self._membership.add_seeds(self._acceptance.greetings(contacts, self._own_id))
        self._membership.greet(self._responder.own_endpoints)

    def resume(self, contacts: Iterable[Contact], now: float) -> None:
        """Start as a member with these contacts, and with periodic tasks at random phases.

        Every bucket was refreshed at a random time within the last interval. The descriptor is
        stored again at a random time within the next interval.
        """
        self._be_present(now)
        rng, settings = self._rng, self._settings
        for contact in contacts:
            self._table.seen(contact)
        self._membership.phase = Phase.JOINED
        self._publisher.settle()
        for bucket in self._table.buckets:
            bucket.last_updated = now - rng.uniform(0.0, settings.refresh_interval_s)
        self._schedule.at(Task.REFRESH, now + rng.uniform(0.0, 0.1 * settings.refresh_interval_s))
        self._schedule.at(Task.PUBLISH, now + rng.uniform(0.0, settings.republish_interval_s))
        # The topology table cannot be filled directly, so the first crawl is due at once.
        self._crawl_pace = Pace(settings.crawl_interval_s, settings.crawl_interval_s, rng)
        self._schedule.at(Task.CRAWL, now + rng.uniform(0.0, _FIRST_CRAWL_WITHIN_S))

    def publish_later(self, descriptor: MixDescriptor, now: float) -> None:
        """Use a descriptor that other nodes have already; store it again on schedule."""
        self._be_present(now)
        self._publisher.replace(descriptor)
        self._responder.own_descriptor = descriptor

    def keep(self, descriptor: MixDescriptor, source: bytes) -> bool:
        """Store a record as if its owner had stored it here."""
        try:
            self._store.put(descriptor.node_id, descriptor.encoded, source, responsible=True)
        except PeerError:
            return False
        return True

    def end(self) -> None:
        """Release all parts, because the node has stopped.

        The parts refer to each other, so otherwise only the cycle collector would free them.
        After hours of churn there would be more stopped nodes than running ones in memory.
        """
        self._calls.cancel_all()
        self._walks.cancel_all()
        # These parts hold bound methods of each other, so to clear the core alone is not enough.
        for part in (self._responder, self.reachability):
            vars(part).clear()
        vars(self).clear()

    def probe(self, target: NodeId, now: float, on_finished: OnLookup) -> None:
        """Look up a node as refreshes do, without a change of the age of buckets."""
        self._now = now
        start = self._table.closest(target, self._settings.k)
        lookup = Lookup(target, self._own_id, start, self._settings, now)
        self._walks.launch(lookup, partial(on_finished, lookup))

    def suspects(self, lookup: Lookup) -> bool:
        """Tell whether the result of a probe would raise the eclipse alarm of this node."""
        self._watch.looked_up(lookup.target, lookup.closest(), self._now)
        return self._watch.suspects(lookup.target, self._now)

    def fetch(self, key: NodeId, holders: list[Contact], now: float, on_finished: OnRecord) -> None:
        """Request a record from these nodes, nearest first, until three returned a valid one."""
        self._now = now
        _Fetch(self, key, holders, on_finished).ask()


class _Fetch:
    """The retrieval of one record: three holders at a time, until three returned a valid one.

    The newest record counts, so that a single holder cannot replay an old record.
    """

    __slots__ = ("_answered_by", "_asked", "_best", "_dht", "_holders", "_key", "_on_finished",
                 "_waiting")  # fmt: skip

    def __init__(
        self, dht: SimulatedDht, key: NodeId, holders: list[Contact], on_finished: OnRecord
    ) -> None:
        self._dht = dht
        self._key = key
        self._holders = holders
        self._on_finished: OnRecord | None = on_finished
        self._best: MixDescriptor | None = None
        self._asked = self._waiting = self._answered_by = 0

    def ask(self) -> None:
        """Send the missing requests; report the result when no request is left."""
        dht = self._dht
        while self._waiting + self._answered_by < _HOLDERS_WANTED and self._asked < len(
            self._holders
        ):
            contact = self._holders[self._asked]
            self._asked += 1
            self._waiting += 1
            dht._calls.start(
                FindRecord(self._key), contact.endpoint, contact.node_id, dht._now, self._answered
            )
        if not self._waiting and self._on_finished is not None:
            told, self._on_finished = self._on_finished, None
            told(self._best, self._asked)

    def _answered(self, answer: VerifiedReply | None) -> None:
        self._waiting -= 1
        if answer is not None and isinstance(answer.reply, Record):
            self._take(answer.reply.record)
        self.ask()

    def _take(self, record: bytes) -> None:
        try:
            descriptor = self._dht._verified(record, self._key)
        except PeerError:
            return
        self._answered_by += 1
        if self._best is None or descriptor.sequence > self._best.sequence:
            self._best = descriptor
