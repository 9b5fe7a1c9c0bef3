"""The DHT core: join the overlay, keep contacts, store records, publish and crawl.

It only routes between complete machines: ``DhtReception`` (datagrams), ``Acceptance`` (rules for
others' contacts), ``Calls`` (requests under way), ``RequestResponder`` (requests of others),
``Table`` (contacts), ``RecordStore`` (records), ``IterativeQueries`` (lookups and crawls),
``Membership`` (in or out, and with which contacts), ``Publisher`` (our own descriptor).

No lookup is made for a circuit, because it would reveal a hop. Descriptors come from scheduled
crawls of the whole overlay, which do not depend on the user's actions. Paths are chosen from the
topology table only. So this class has no method that looks up one node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from random import Random
from typing import Final

from overlay.addresses import Endpoint, NodeId
from overlay.dht.acceptance import Acceptance, check_own_cost
from overlay.dht.calls import Calls, VerifiedReply
from overlay.dht.clock_watch import ClockOffset, ClockWatch
from overlay.dht.crawl import Crawl
from overlay.dht.descriptor import MixDescriptor
from overlay.dht.eclipse import EclipseWatch
from overlay.dht.envelope import BareRequest, Envelopes, UnverifiedRequest
from overlay.dht.events import (
    CrawlFinished,
    DescriptorFound,
    DescriptorRenewed,
    DhtActivity,
    DhtCount,
    DhtEvent,
    EclipseSuspected,
    NodeLeft,
)
from overlay.dht.iterative_queries import IterativeQueries
from overlay.dht.lookup import Lookup
from overlay.dht.membership import Membership, Phase
from overlay.dht.messages import Contact, Leave, Reply
from overlay.dht.publishing import Publisher, around
from overlay.dht.reach import KnownEndpoints, Reach
from overlay.dht.reachability import Reachability
from overlay.dht.reception import DhtReception
from overlay.dht.responder import RequestResponder
from overlay.dht.routing import Table
from overlay.dht.schedule import Pace, Schedule, Task
from overlay.dht.settings import DhtSettings
from overlay.dht.storage import RecordStore, VerifyRecord, verified_record
from overlay.errors import ConfigurationError
from overlay.identity import LocalIdentity
from overlay.work_budget import WorkBudget

__all__ = ["Dht"]

_MAX_GOODBYES: Final = 64


class Dht:  # Large: the facade of the DHT; each method calls one part.
    """One node's part in the DHT.

    Args:
        identity: signs every datagram; its NodeId is this node's place.
        network_id: datagrams and descriptors of other networks are dropped.
        settings: see :class:`DhtSettings`.
        rng: request ids (without ``draw_id``), cookies' secret, targets and jitter.
        endpoints: those of this node. A request that was sent to another one is dropped. None:
            those of the published descriptor; empty: not checked.
        known_endpoints: returns those of a node's verified descriptor, none if none is known.
            Contacts are told to others, and asked, over an IP version that fits.
        envelopes: makes datagrams of messages, signed msgpack by default.
        verify_record: turns stored bytes into the descriptor of a node, or raises PeerError.
        budget: CPU time for the signatures of others; no bound by default.
        draw_id: draws the 12 bytes of a request id.

    Raises:
        ConfigurationError: this identity costs less than the network asks.
    """

    make_responder: Callable[..., RequestResponder] = RequestResponder
    """Builds what answers the requests of others; a simulated adversary has its own."""

    def __init__(  # Large: it builds all parts and connects them; no part is used before.
        self,
        identity: LocalIdentity,
        *,
        network_id: str,
        settings: DhtSettings,
        rng: Random,
        endpoints: Collection[Endpoint] | None = None,
        known_endpoints: KnownEndpoints = lambda _: (),
        envelopes: Envelopes | None = None,
        verify_record: VerifyRecord = verified_record,
        budget: WorkBudget | None = None,
        draw_id: Callable[[], bytes] | None = None,
    ) -> None:
        check_own_cost(identity, settings.identity_cost_bits)
        self._identity = identity
        self._own_id = identity.node_id
        self._network_id = network_id
        self._settings = settings
        self._rng = rng
        self._endpoints_given = endpoints is not None
        self._reach = Reach(known_endpoints)
        self._now = 0.0
        self._clock = lambda: self._now
        self._outbox: list[tuple[bytes, Endpoint]] = []
        self._events: list[DhtEvent] = []
        self._counts: Counter[DhtCount] = Counter()
        self._acceptance = Acceptance(settings, self._reach, self._counts)
        self._envelopes = envelopes or Envelopes(identity, network_id)
        self._table = Table(self._own_id, settings, self._clock, rng)
        self._verify_record = verify_record
        self._store = RecordStore(self._own_id, network_id, settings, self._clock, verify_record)
        self._clock_watch = ClockWatch()
        self._calls = Calls(
            self._envelopes,
            settings,
            rng,
            self._send,
            self._counts,
            draw_id,
            on_pong=self._clock_watch.heard_pong,
        )
        self._schedule = Schedule()
        self._membership = Membership(
            self._own_id,
            settings,
            rng,
            clock=self._clock,
            calls=self._calls,
            table=self._table,
            schedule=self._schedule,
            look_up=self._look_up,
            emit=self._events.append,
            on_joined=self._joined,
        )
        self._publisher = Publisher(
            settings,
            rng,
            clock=self._clock,
            calls=self._calls,
            schedule=self._schedule,
            on_silence=self._membership.silent,
        )
        self._walks = IterativeQueries(
            self._calls,
            self._clock,
            on_answer=self._met_and_filtered,
            on_silence=self._membership.silent,
            reaches=self._reach.holds,
        )
        self._responder = self.make_responder(
            self._own_id,
            self._envelopes,
            settings,
            rng,
            table=self._table,
            store=self._store,
            counts=self._counts,
            on_contact=self._membership.met,
            on_pinged=self._membership.pinged,
            on_left=self._heard_goodbye,
            on_stored=self._stored,
            on_mistaken=self._membership.mistaken,
            known_endpoints=known_endpoints,
            budget=budget,
        )
        self._responder.own_endpoints = frozenset(endpoints or ())
        self.reachability = Reachability(
            self._own_id,
            self._envelopes,
            self._calls,
            rng,
            table=self._table,
            acceptance=self._acceptance,
            known_endpoints=known_endpoints,
            verified=self._verified,
            responder=self._responder,
            clock=self._clock,
            emit=self._events.append,
            overloaded=lambda: self._counts[DhtCount.RATE_LIMITED],
        )
        self._reception = DhtReception(
            self._envelopes,
            allow_private=settings.allow_private_endpoints,
            acceptance=self._acceptance,
            calls=self._calls,
            responder=self._responder,
            counts=self._counts,
            on_request=self._answer,
        )
        self._crawl_pace = Pace(settings.crawl_first_interval_s, settings.crawl_interval_s, rng)
        self._crawl: Crawl | None = None
        self._crawl_again_from = 0.0
        self._watch = EclipseWatch(settings.k)
        self.activity = DhtActivity()

    # Methods for the node.

    def bootstrap(self, endpoints: Sequence[Endpoint], now: float) -> None:
        """Greet these endpoints repeatedly until one answers.

        Raises:
            ConfigurationError: an endpoint is private without permission, or not unicast.
        """
        self._be_present(now)
        for endpoint in endpoints:
            if not self._acceptance.allows(endpoint):
                raise ConfigurationError(
                    "[network] bootstrap must name public addresses of single hosts, or set "
                    "allow_private_endpoints = true below [network] for a private mesh."
                )
        self._membership.add_bootstrap(endpoints)
        self._membership.greet(self._responder.own_endpoints)

    def seed(self, descriptors: Iterable[MixDescriptor], now: float) -> None:
        """Greet some random ones of these nodes of an earlier run until one answers."""
        self._be_present(now)
        allows = self._acceptance.allows
        contacts = (
            Contact.of(descriptor.identity_key, endpoint)
            for descriptor in descriptors
            if (endpoint := self._reach.first(filter(allows, descriptor.endpoints)))
        )
        self._membership.add_seeds(self._acceptance.greetings(contacts, self._own_id))
        self._membership.greet(self._responder.own_endpoints)

    def remember(self, contacts: Iterable[Contact], now: float) -> None:
        """Also greet some random ones of these nodes, which were reached once, until one answers.

        They never expire, so that a node comes back after any absence.
        """
        self._be_present(now)
        self._membership.add_hints(self._acceptance.greetings(contacts, self._own_id))
        self._membership.greet(self._responder.own_endpoints)

    def relocate(
        self,
        endpoints: Collection[Endpoint],
        versions: Collection[int],
        now: float,
        *,
        moved: bool = True,
    ) -> None:
        """Accept only requests that were sent to these endpoints from now on.

        If this node has ``moved``, the contacts hear of it at once. ``versions`` are the IP
        versions over which this host reaches others; nodes at other endpoints are not asked.
        """
        self._now = now
        self._endpoints_given = True
        self._responder.own_endpoints = frozenset(endpoints)
        self._reach.versions = frozenset(versions)
        if moved:
            self._membership.moved()

    def publish(self, descriptor: MixDescriptor, now: float) -> None:
        """Serve this node's own descriptor and keep it stored with the k nearest nodes.

        It is stored again on schedule until it expires; its owner publishes a new one
        before that.

        Raises:
            ValueError: it is another node's or network's, or not newer than the last one.
        """
        self._be_present(now)
        if (descriptor.node_id, descriptor.network_id) != (self._own_id, self._network_id):
            raise ValueError("only this node's own descriptor, for this network, is published here")
        self._publisher.replace(descriptor)
        self._responder.own_descriptor = descriptor
        if not self._endpoints_given:
            self._responder.own_endpoints = frozenset(descriptor.endpoints)
        if self._membership.phase is Phase.JOINED:
            self._publish()

    def crawl(self, now: float) -> None:
        """Crawl now, unless a crawl is in progress."""
        self._now = now
        if self._crawl is not None or self._membership.phase is Phase.LEFT:
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
            doubtful=partial(self._watch.suspects, now=now),
            reaches=self._reach.holds,
        )
        self.activity.crawls += 1
        self._walks.launch(self._crawl, self._crawled)

    def hasten_crawl(self, now: float) -> None:
        """Crawl soon, because nodes may have moved; after a pause if one has just ended."""
        self._schedule.hasten(Task.CRAWL, max(now, self._crawl_again_from) + self._rng.random())

    def leave(self, now: float) -> None:
        """Send LEAVE to the contacts and to the holders of our descriptor, and stop.

        Datagrams follow until every LEAVE was answered or timed out (``calls_in_flight``).
        """
        self._now = now
        if self._membership.phase is Phase.LEFT:
            return
        self._membership.leave()
        self._walks.cancel_all()
        self._calls.cancel_all()
        self._schedule.cancel_all()
        self.reachability.stop(now)
        nearest = self._table.closest(self._own_id, _MAX_GOODBYES)
        everyone = self._publisher.holders | {contact.node_id: contact for contact in nearest}
        goodbye = Leave(self._publisher.sequence)
        for contact in list(everyone.values())[:_MAX_GOODBYES]:
            self._calls.start(goodbye, contact.endpoint, contact.node_id, now, lambda _: None)

    @property
    def versions(self) -> frozenset[int]:
        """The IP versions over which this host reaches others."""
        return self._reach.versions

    @property
    def contact_count(self) -> int:
        """Number of contacts in the routing table."""
        return len(self._table)

    @property
    def record_count(self) -> int:
        """Number of descriptors that this node stores for others."""
        return len(self._store)

    @property
    def calls_in_flight(self) -> int:
        """Number of requests without an answer so far."""
        return len(self._calls)

    def suspect_regions(self, now: float) -> int:
        """Return the number of regions of the key space that look eclipsed."""
        return self._watch.suspected_regions(now)

    def clock_offset(self, now: float) -> ClockOffset | None:
        """Return how far this host's clock is off those of nodes that answered, if any did."""
        return self._clock_watch.offset(now)

    def estimated_size(self, now: float) -> float | None:
        """Return the estimated number of nodes; None while too little is known."""
        return self._watch.size(now)

    def counters(self) -> Mapping[DhtCount, int]:
        """Return the counts of dropped and refused messages."""
        return dict(self._counts)

    # The five methods that all cores have.

    def receive(self, batch: Iterable[tuple[bytes, Endpoint]], now: float) -> None:
        """Process datagrams (without the framing of the control channel); never raise."""
        self._now = now
        for data, source in batch:
            self._reception.receive(data, source, now)

    def next_deadline(self) -> float:
        """Return when :meth:`handle_deadline` is due."""
        parts = (self._calls, self._walks, self._membership, self._schedule, self.reachability)
        return min(part.next_deadline() for part in parts)

    def handle_deadline(self, now: float) -> None:
        """Do what is due: repeat or end requests, greet, refresh, publish and crawl."""
        self._now = now
        self._calls.handle_deadline(now)
        self._walks.handle_deadline(now)
        self.reachability.handle_deadline(now)
        self._membership.greet(self._responder.own_endpoints)
        for task in self._schedule.due(now):
            self._run(task)

    def events(self) -> list[DhtEvent]:
        """Return and remove the events so far."""
        if not self._events:
            return []
        events = self._events.copy()
        self._events.clear()
        return events

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Endpoint]]:  # noqa: ARG002 - one of the five verbs
        """Return and remove the datagrams to send."""
        datagrams, self._outbox = self._outbox, []
        return datagrams

    # Datagrams.

    def _answer(self, request: UnverifiedRequest | BareRequest, source: Endpoint) -> None:
        if self._membership.phase is Phase.LEFT:
            return
        datagram = self._responder.answer(request, source, self._now)
        if datagram is not None:
            self._send(datagram, source)

    def _send(self, datagram: bytes, endpoint: Endpoint) -> None:
        self._outbox.append((datagram, endpoint))
        self.reachability.tests.sent_to(endpoint, self._now)

    def _met_and_filtered(self, answer: VerifiedReply) -> Reply:
        """File who answered; return the reply without contacts that we must not follow."""
        self._membership.met(answer.contact)
        return self._acceptance.filtered(answer.reply, self._responder.own_endpoints)

    def _stored(self, node_id: NodeId) -> None:
        descriptor = self._store.find(node_id)
        if descriptor is not None:
            self._events.append(DescriptorRenewed(descriptor))

    def _heard_goodbye(self, node_id: NodeId) -> None:
        self._publisher.holders.pop(node_id, None)
        self._membership.gone(node_id)
        self._events.append(NodeLeft(node_id))

    # Scheduled work.

    def _joined(self, lookup: Lookup) -> None:
        self._schedule.at(Task.CRAWL, self._now + self._rng.uniform(0.1, 1.0))
        self._store_in_region(lookup)

    def _run(self, task: Task) -> None:
        match task:
            case Task.REFRESH:
                self._membership.refresh()
            case Task.PUBLISH:
                self._publish()
            case Task.CRAWL:
                self.crawl(self._now)

    def _look_up(self, target: NodeId, on_finished: Callable[[Lookup], None]) -> None:
        self._table.refreshed(target)
        start = self._table.closest(target, self._settings.k)
        lookup = Lookup(target, self._own_id, start, self._settings, self._now)
        self.activity.lookups += 1
        self._walks.launch(lookup, partial(self._looked_up, lookup, on_finished))

    def _looked_up(self, lookup: Lookup, on_finished: Callable[[Lookup], None]) -> None:
        nearest = lookup.closest()
        if nearest and self._now < lookup.next_deadline():
            self.activity.lookups_succeeded += 1
        chance = self._watch.looked_up(lookup.target, nearest, self._now)
        if chance is not None:
            self.activity.eclipses_suspected += 1
            own_region = self._watch.suspects(self._own_id, self._now)
            self._events.append(EclipseSuspected(chance, own_region))
        on_finished(lookup)

    def _publish(self) -> None:
        self._look_up(self._own_id, self._store_in_region)

    def _store_in_region(self, lookup: Lookup) -> None:
        """Store at the k nearest nodes and in the region; search more if it looks eclipsed."""
        reach = self._watch.region(self._now)
        self._publisher.store_at(lookup, reach)
        if reach and self._watch.suspects(self._own_id, self._now):
            for target in around(self._own_id, reach, self._settings.k):
                self._look_up(target, self._publisher.store_more)

    # Crawling.

    def _verified(self, record: bytes, key: NodeId) -> MixDescriptor:
        return self._verify_record(
            record,
            key,
            network_id=self._network_id,
            now=self._now,
            cost_bits=self._settings.identity_cost_bits,
        )

    def _found(self, descriptor: MixDescriptor, answered: bool) -> None:
        if not self._store.is_left(descriptor):
            self._events.append(DescriptorFound(descriptor, answered))

    def _crawled(self) -> None:
        crawl, self._crawl = self._crawl, None
        if crawl is None:
            return
        self._counts[DhtCount.REFUSED_RECORD] += crawl.refused_records
        if crawl.complete:
            self._watch.crawled(crawl.answered_ids, self._rng, self._now)
        self._events.append(
            CrawlFinished(crawl.descriptors, crawl.started_at, crawl.exhaustive, crawl.unanswered())
        )
        if self._membership.phase is Phase.JOINED:
            spent_s = crawl.queries_sent / self._settings.crawl_queries_per_s
            self._schedule.at(Task.CRAWL, self._now + max(self._crawl_pace.next(), spent_s))
            least_s = self._settings.crawl_first_interval_s
            self._crawl_again_from = self._now + max(least_s, spent_s)

    def _be_present(self, now: float) -> None:
        self._now = now
        if self._membership.phase is Phase.LEFT:
            raise ValueError("this node has left the DHT; a new Dht is needed to come back")
