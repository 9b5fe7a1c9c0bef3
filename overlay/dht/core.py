"""The DHT core: joins the overlay, keeps its contacts, stores, publishes and crawls.

It only routes between complete machines: ``Calls`` (requests under way), ``Responder``
(requests of others), ``Table`` (contacts), ``Store`` (records), ``Walks`` (lookups and
crawls), ``Joining`` (bootstrap and seeds).

::

    ALONE ──first contact proves itself──▶ JOINING ──self-lookup──▶ JOINED
      ▲                                       │                       │
      └──────── the last contact is gone ─────┴───────────────────────┘
    leave() ends in LEFT, from anywhere.

No lookup is ever made for a circuit. Descriptors come from scheduled crawls of the whole
overlay, the same whatever the user does, and paths are chosen from the topology table
alone; so there is no call here that looks up one node.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from random import Random
from typing import Final

from overlay.addresses import Endpoint, NodeId
from overlay.dht.admission import endpoint_allowed
from overlay.dht.calls import Answer, Calls
from overlay.dht.crawl import Crawl
from overlay.dht.descriptor import MixDescriptor
from overlay.dht.envelope import (
    Challenge,
    Envelopes,
    OtherNetwork,
    UnverifiedRequest,
    parse_datagram,
)
from overlay.dht.events import (
    BootstrapUnreachable,
    CrawlFinished,
    DescriptorFound,
    DhtCount,
    DhtEvent,
    Joined,
    NodeLeft,
)
from overlay.dht.joining import Greeting, Joining
from overlay.dht.lookup import Lookup
from overlay.dht.messages import Contact, Contacts, Leave, Ping, Reply, Stored
from overlay.dht.messages import Store as StoreRequest
from overlay.dht.responder import Responder
from overlay.dht.routing import Table
from overlay.dht.schedule import Pace, Schedule, Task
from overlay.dht.settings import DhtSettings
from overlay.dht.storage import Store, verified_record
from overlay.dht.walks import Walks
from overlay.errors import ConfigurationError, Malformed
from overlay.identity import LocalIdentity

__all__ = ["Dht"]

_FIRST_REPUBLISH_S: Final = 60.0
"""While the overlay grows around a newcomer, the nodes nearest to it change quickly."""

_REFRESH_PACE_S: Final = 1.0
"""Between the refreshes of two buckets, so that a join is no burst."""

_MAX_LOOKUPS: Final = 4
_MAX_PROBES: Final = 16
_MAX_GOODBYES: Final = 64


class _Phase(enum.Enum):
    ALONE = "alone"
    JOINING = "joining"
    JOINED = "joined"
    LEFT = "left"


class Dht:
    """One node's part in the DHT.

    Args:
        identity: signs every datagram; its NodeId is this node's place.
        network_id: datagrams and descriptors of other networks are dropped.
        settings: see :class:`DhtSettings`.
        rng: request ids, cookies' secret, targets and jitter.
        endpoints: every endpoint under which others reach this node. A request that was
            sent to another address is dropped, as somebody passed it on. None: those of the
            published descriptor; empty: not checked.
    """

    def __init__(
        self,
        identity: LocalIdentity,
        *,
        network_id: str,
        settings: DhtSettings,
        rng: Random,
        endpoints: Collection[Endpoint] | None = None,
    ) -> None:
        self._identity = identity
        self._own_id = identity.node_id
        self._network_id = network_id
        self._settings = settings
        self._rng = rng
        self._endpoints_given = endpoints is not None
        self._now = 0.0
        self._phase = _Phase.ALONE
        self._outbox: list[tuple[bytes, Endpoint]] = []
        self._events: list[DhtEvent] = []
        self._counts: Counter[DhtCount] = Counter()
        self._envelopes = Envelopes(identity, network_id)
        self._table = Table(self._own_id, settings, self._clock, rng)
        self._store = Store(self._own_id, network_id, settings, self._clock)
        self._calls = Calls(self._envelopes, settings, rng, self._send, self._counts)
        self._walks = Walks(
            self._calls, self._clock, on_answer=self._met_and_filtered, on_silence=self._silent
        )
        self._responder = Responder(
            self._own_id,
            self._envelopes,
            settings,
            rng,
            table=self._table,
            store=self._store,
            counts=self._counts,
            on_contact=self._met,
            on_left=self._heard_goodbye,
        )
        self._responder.own_endpoints = frozenset(endpoints or ())
        self._joining = Joining(settings, rng)
        self._schedule = Schedule()
        self._crawl_pace = Pace(settings.crawl_first_interval_s, settings.crawl_interval_s, rng)
        self._publish_pace = self._new_publish_pace()
        self._crawl: Crawl | None = None
        self._probing: set[NodeId] = set()
        self._holders: dict[NodeId, Contact] = {}

    # What the node asks for.

    def bootstrap(self, endpoints: Sequence[Endpoint], now: float) -> None:
        """Greet these endpoints, again and again until one answers.

        Raises:
            ConfigurationError: an endpoint is private (and those are not allowed), or none
                that a datagram may ever go to.
        """
        self._be_present(now)
        for endpoint in endpoints:
            if not self._allowed(endpoint):
                raise ConfigurationError(
                    "A bootstrap endpoint must be a public unicast address; set "
                    "allow_private_endpoints in the DHT's settings for a private network."
                )
        self._joining.add_bootstrap(endpoints, now)
        self._greet()

    def seed(self, descriptors: Iterable[MixDescriptor], now: float) -> None:
        """Greet a random few of these nodes, known from an earlier run, until one answers."""
        self._be_present(now)
        seeds = [
            Greeting(endpoint, descriptor.node_id)
            for descriptor in descriptors
            if descriptor.node_id != self._own_id
            for endpoint in filter(self._allowed, descriptor.endpoints[:1])
        ]
        self._joining.add_seeds(seeds, now)
        self._greet()

    def publish(self, descriptor: MixDescriptor, now: float) -> None:
        """Serve this node's own descriptor and keep it stored with the k nearest nodes.

        It is stored again on schedule until it expires; its owner publishes a new one
        before that.

        Raises:
            ValueError: it is another node's or network's, or older than the last one.
        """
        self._be_present(now)
        if (descriptor.node_id, descriptor.network_id) != (self._own_id, self._network_id):
            raise ValueError("only this node's own descriptor, for this network, is published here")
        last = self._responder.own_descriptor
        if last is not None and descriptor.sequence < last.sequence:
            raise ValueError("a descriptor with a higher sequence number was published before")
        self._responder.own_descriptor = descriptor
        if not self._endpoints_given:
            self._responder.own_endpoints = frozenset(descriptor.endpoints)
        self._publish_pace = self._new_publish_pace()
        if self._phase is _Phase.JOINED:
            self._publish()

    def crawl(self, now: float) -> None:
        """Crawl now, unless a crawl is under way."""
        self._now = now
        if self._crawl is not None or self._phase is _Phase.LEFT:
            return
        self._schedule.cancel(Task.CRAWL)
        self._crawl = Crawl(
            self._own_id,
            self._table,
            self._settings,
            verify=self._verified,
            on_descriptor=self._found,
            rng=self._rng,
            now=now,
        )
        self._walks.launch(self._crawl, self._crawled)

    def leave(self, now: float) -> None:
        """Say goodbye to the contacts and to those who store our descriptor; then be silent.

        Datagrams follow until every goodbye was heard or timed out (``calls_in_flight``).
        """
        self._now = now
        if self._phase is _Phase.LEFT:
            return
        self._phase = _Phase.LEFT
        self._walks.cancel_all()
        self._calls.cancel_all()
        self._schedule.cancel_all()
        self._joining.stop()
        own = self._responder.own_descriptor
        nearest = self._table.closest(self._own_id, _MAX_GOODBYES)
        everyone = self._holders | {contact.node_id: contact for contact in nearest}
        for contact in list(everyone.values())[:_MAX_GOODBYES]:
            self._call(Leave(own.sequence if own else 0), contact, _ignore)

    @property
    def contact_count(self) -> int:
        """How many contacts the routing table holds."""
        return len(self._table)

    @property
    def record_count(self) -> int:
        """How many descriptors this node stores for others."""
        return len(self._store)

    @property
    def calls_in_flight(self) -> int:
        """How many requests wait for their answer."""
        return len(self._calls)

    def counters(self) -> Mapping[DhtCount, int]:
        """Return what was dropped or declined so far."""
        return dict(self._counts)

    # The five verbs.

    def receive(self, batch: Iterable[tuple[bytes, Endpoint]], now: float) -> None:
        """Take datagrams (without the control channel's framing); never raises."""
        self._now = now
        for data, source in batch:
            self._receive_one(data, source)

    def next_deadline(self) -> float:
        """Return when :meth:`handle_deadline` is due."""
        return min(
            self._calls.next_deadline(),
            self._walks.next_deadline(),
            self._joining.next_deadline(),
            self._schedule.next_deadline(),
        )

    def handle_deadline(self, now: float) -> None:
        """Send again, give up, greet, refresh, publish and crawl, as far as due."""
        self._now = now
        self._calls.handle_deadline(now)
        self._walks.handle_deadline(now)
        self._greet()
        for task in self._schedule.due(now):
            self._run(task)

    def events(self) -> list[DhtEvent]:
        """Drain what happened."""
        events, self._events = self._events, []
        return events

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Endpoint]]:  # noqa: ARG002 - one of the five verbs
        """Drain what must leave."""
        datagrams, self._outbox = self._outbox, []
        return datagrams

    # Datagrams.

    def _receive_one(self, data: bytes, source: Endpoint) -> None:
        try:
            source = Endpoint.parse(*source)
            message = parse_datagram(data, self._envelopes.tag)
        except OtherNetwork:
            self._counts[DhtCount.OTHER_NETWORK] += 1
        except Malformed:
            self._counts[DhtCount.MALFORMED] += 1
        else:
            if not self._allowed(source):
                self._counts[DhtCount.REFUSED_ENDPOINT] += 1
            elif isinstance(message, UnverifiedRequest):
                self._answer(message, source)
            elif isinstance(message, Challenge):
                self._calls.challenged(message, source, self._now)
            else:
                self._calls.replied(message, source)

    def _answer(self, request: UnverifiedRequest, source: Endpoint) -> None:
        if self._phase is _Phase.LEFT:
            return
        datagram = self._responder.answer(request, source, self._now)
        if datagram is not None:
            self._send(datagram, source)

    def _send(self, datagram: bytes, endpoint: Endpoint) -> None:
        self._outbox.append((datagram, endpoint))

    def _call(
        self,
        request: Ping | StoreRequest | Leave,
        contact: Contact,
        on_answer: Callable[[Answer | None], None],
    ) -> None:
        self._calls.start(request, contact.endpoint, contact.node_id, self._now, on_answer)

    # Contacts.

    def _met(self, contact: Contact) -> None:
        """File a contact that has just proved its key and its endpoint."""
        if self._phase is _Phase.LEFT:
            return
        is_new = self._table.get(contact.node_id) is None
        doubtful = self._table.seen(contact)
        if doubtful is not None:
            self._probe(doubtful)
        if self._phase is _Phase.ALONE:
            self._phase = _Phase.JOINING
            self._joining.stop()
            self._look_up(self._own_id, self._looked_around)
        elif is_new and len(self._table) < self._settings.k:
            # The overlay is small or we are new to it: it pays to look again soon.
            self._schedule.hasten(Task.CRAWL, self._now + self._crawl_pace.shortest())

    def _met_and_filtered(self, answer: Answer) -> Reply:
        """File who answered; return the reply without contacts that we must not follow."""
        self._met(answer.contact)
        reply = answer.reply
        if not isinstance(reply, Contacts):
            return reply
        own = self._responder.own_endpoints
        acceptable = tuple(
            contact
            for contact in reply.contacts
            if self._allowed(contact.endpoint) and contact.endpoint not in own
        )
        refused = reply.refused + len(reply.contacts) - len(acceptable)
        if refused:
            self._counts[DhtCount.REFUSED_CONTACT] += refused
        return replace(reply, contacts=acceptable, refused=0)

    def _silent(self, contact: Contact) -> None:
        self._table.failed(contact.node_id)
        if not len(self._table) and self._phase is _Phase.JOINED:
            self._be_alone()

    def _be_alone(self) -> None:
        self._phase = _Phase.ALONE
        self._schedule.cancel_all()
        self._joining.retry(self._now)

    def _probe(self, contact: Contact) -> None:
        """Ping the least recently seen contact of a full bucket before it is replaced."""
        if contact.node_id in self._probing or len(self._probing) >= _MAX_PROBES:
            return
        self._probing.add(contact.node_id)
        self._call(Ping(), contact, partial(self._probed, contact))

    def _probed(self, contact: Contact, answer: Answer | None) -> None:
        self._probing.discard(contact.node_id)
        if answer is None:
            self._silent(contact)
        else:
            self._met(answer.contact)

    def _heard_goodbye(self, node_id: NodeId) -> None:
        self._holders.pop(node_id, None)
        self._events.append(NodeLeft(node_id))
        if not len(self._table) and self._phase is _Phase.JOINED:
            self._be_alone()

    def _allowed(self, endpoint: Endpoint) -> bool:
        return endpoint_allowed(endpoint, allow_private=self._settings.allow_private_endpoints)

    # Joining and scheduled work.

    def _greet(self) -> None:
        for greeting in self._joining.round(self._now, self._responder.own_endpoints):
            on_answer = partial(self._greeted, greeting)
            self._calls.start(Ping(), greeting.endpoint, greeting.node_id, self._now, on_answer)

    def _greeted(self, greeting: Greeting, answer: Answer | None) -> None:
        if answer is not None:
            self._joining.answered()
            self._met(answer.contact)
            return
        self._joining.failed(self._now)
        if self._phase is not _Phase.ALONE:
            self._joining.stop()
        if greeting.node_id is None:
            self._events.append(BootstrapUnreachable(greeting.endpoint))

    def _looked_around(self, lookup: Lookup) -> None:
        """End the self-lookup: we have joined, or the contact we had is gone again."""
        if not lookup.closest() and not len(self._table):
            self._be_alone()
            return
        self._phase = _Phase.JOINED
        self._events.append(Joined(len(self._table)))
        self._schedule.at(Task.REFRESH, self._now + self._rng.uniform(0.5, 1.5) * _REFRESH_PACE_S)
        self._schedule.at(Task.CRAWL, self._now + self._rng.uniform(0.1, 1.0))
        self._store_at(lookup)

    def _run(self, task: Task) -> None:
        match task:
            case Task.REFRESH:
                self._refresh()
            case Task.PUBLISH:
                self._publish()
            case Task.CRAWL:
                self.crawl(self._now)

    def _look_up(self, target: NodeId, on_finished: Callable[[Lookup], None]) -> None:
        self._table.refreshed(target)
        start = self._table.closest(target, self._settings.k)
        lookup = Lookup(target, self._own_id, start, self._settings, self._now)
        self._walks.launch(lookup, partial(on_finished, lookup))

    def _refresh(self) -> None:
        """Look up a random id in one bucket that is due, at most a few at a time."""
        spacing = _REFRESH_PACE_S
        if len(self._walks) < _MAX_LOOKUPS:
            target = self._table.refresh_target()
            if target is not None:
                self._look_up(target, _ignore)
            else:
                spacing = 0.1 * self._settings.refresh_interval_s
        self._schedule.at(Task.REFRESH, self._now + self._rng.uniform(0.5, 1.5) * spacing)

    def _publish(self) -> None:
        self._look_up(self._own_id, self._store_at)

    def _store_at(self, lookup: Lookup) -> None:
        """Store our descriptor with the k nearest nodes that a lookup of our id found."""
        own = self._responder.own_descriptor
        if own is None or self._now >= own.expires:
            return
        self._schedule.at(Task.PUBLISH, self._now + self._publish_pace.next())
        self._holders.clear()
        for contact in lookup.closest():
            on_answer = partial(self._stored, contact)
            self._call(StoreRequest(own.encoded), contact, on_answer)

    def _stored(self, contact: Contact, answer: Answer | None) -> None:
        if answer is None:
            self._silent(contact)
        elif isinstance(answer.reply, Stored) and answer.reply.accepted:
            self._holders[contact.node_id] = contact

    def _new_publish_pace(self) -> Pace:
        interval = self._settings.republish_interval_s
        return Pace(min(_FIRST_REPUBLISH_S, interval), interval, self._rng)

    # Crawling.

    def _verified(self, record: bytes, key: NodeId) -> MixDescriptor:
        return verified_record(record, key, network_id=self._network_id, now=self._now)

    def _found(self, descriptor: MixDescriptor) -> None:
        if not self._store.is_left(descriptor):
            self._events.append(DescriptorFound(descriptor))

    def _crawled(self) -> None:
        crawl, self._crawl = self._crawl, None
        if crawl is None:
            return
        self._counts[DhtCount.REFUSED_RECORD] += crawl.refused_records
        self._events.append(CrawlFinished(crawl.descriptors))
        if self._phase is _Phase.JOINED:
            self._schedule.at(Task.CRAWL, self._now + self._crawl_pace.next())

    def _be_present(self, now: float) -> None:
        self._now = now
        if self._phase is _Phase.LEFT:
            raise ValueError("this node has left the DHT; a new Dht is needed to come back")

    def _clock(self) -> float:
        return self._now


def _ignore(_: object) -> None:
    """Take an answer that changes nothing."""
