"""The DHT core: join the overlay, keep contacts, store records, publish and crawl.

It passes datagrams and due times to its parts (``overlay.dht.parts``), and acts on what they
return. The time is an argument of every call, in Unix seconds. No part holds the core.

No lookup is made for a circuit, because it would reveal a hop. Descriptors come from scheduled
crawls of the whole overlay, which do not depend on the user's actions. Paths are chosen from the
topology table only. So this class has no method that looks up one node.

Reasons: docs/decisions/0060.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from random import Random
from typing import Final

from overlay.addresses import Endpoint
from overlay.dht.acceptance import check_own_cost
from overlay.dht.clock_watch import ClockOffset
from overlay.dht.descriptor import MixDescriptor
from overlay.dht.envelope import Envelopes
from overlay.dht.events import DescriptorRenewed, DhtCount, DhtEvent, NodeLeft
from overlay.dht.membership import Phase
from overlay.dht.messages import Contact, Leave
from overlay.dht.parts import DhtParts
from overlay.dht.reach import KnownEndpoints
from overlay.dht.reception import ReceivedRequest
from overlay.dht.responder import Mistaken, Proved
from overlay.dht.settings import DhtSettings
from overlay.dht.storage import VerifyRecord, verified_record
from overlay.errors import ConfigurationError, LimitReached, PeerError
from overlay.identity import LocalIdentity
from overlay.work_budget import WorkBudget

__all__ = ["Dht"]

_MAX_GOODBYES: Final = 64


class Dht:  # Large: the facade of the DHT; each method calls one part.
    """The DHT core of one node: it processes datagrams and times, and returns datagrams and events.

    Args:
        identity: signs every datagram. Its NodeId is this node's position in the key space.
        network_id: name of the network; datagrams and descriptors of other networks are dropped.
        settings: see :class:`DhtSettings`.
        rng: draws request ids (without ``draw_id``), the secret of cookies, targets and jitter.
        endpoints: endpoints of this node. A request that was sent to another one is dropped. None
            means those of the published descriptor; if it is empty, requests are not checked.
        known_endpoints: returns the endpoints in a node's verified descriptor; none if there is no
            descriptor. They determine over which IP version a contact is named and asked.
        envelopes: encodes and parses messages, as signed msgpack by default.
        verify_record: parses and verifies a stored descriptor of a node, or raises PeerError.
        budget: limits the CPU time for signatures of other nodes; no limit by default.
        draw_id: draws the 12 bytes of a request id.

    ``parts`` is for ``overlay.dht.inspection`` and tests; a node needs only the methods.

    Raises:
        ConfigurationError: this identity costs less than the network requires.
    """

    def __init__(
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
        self._own_id = identity.node_id
        self._network_id = network_id
        self._endpoints_given = endpoints is not None
        self.parts = DhtParts(
            identity,
            network_id=network_id,
            settings=settings,
            rng=rng,
            known_endpoints=known_endpoints,
            envelopes=envelopes or Envelopes(identity, network_id),
            verify_record=verify_record,
            budget=budget,
            draw_id=draw_id,
        )
        self.parts.reach.own = frozenset(endpoints or ())
        self.reachability = self.parts.reachability
        self.activity = self.parts.activity

    # Methods for the node.

    def bootstrap(self, endpoints: Sequence[Endpoint], now: float) -> None:
        """Greet these endpoints repeatedly until one answers.

        Raises:
            ConfigurationError: an endpoint is private without permission, or not unicast.
        """
        self._check_present()
        for endpoint in endpoints:
            if not self.parts.acceptance.allows(endpoint):
                raise ConfigurationError(
                    "[network] bootstrap must name public addresses of single hosts, or set "
                    "allow_private_endpoints = true below [network] for a private mesh."
                )
        self.parts.membership.add_bootstrap(endpoints, now)
        self.parts.membership.greet(now)

    def seed(self, descriptors: Iterable[MixDescriptor], now: float) -> None:
        """Greet some random ones of these nodes of an earlier run until one answers."""
        self._check_present()
        parts = self.parts
        allows = parts.acceptance.allows
        contacts = (
            Contact.of(descriptor.identity_key, endpoint)
            for descriptor in descriptors
            if (endpoint := parts.reach.first(filter(allows, descriptor.endpoints)))
        )
        parts.membership.add_seeds(parts.acceptance.greetings(contacts, self._own_id), now)
        parts.membership.greet(now)

    def remember(self, contacts: Iterable[Contact], now: float) -> None:
        """Also greet some random ones of these nodes, which were reached once, until one answers.

        They never expire, so that a node comes back after any absence.
        """
        self._check_present()
        parts = self.parts
        parts.membership.add_hints(parts.acceptance.greetings(contacts, self._own_id), now)
        parts.membership.greet(now)

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
        self._endpoints_given = True
        self.parts.reach.own = frozenset(endpoints)
        self.parts.reach.versions = frozenset(versions)
        if moved:
            self.parts.membership.moved(now)

    def publish(self, descriptor: MixDescriptor, now: float) -> None:
        """Serve this node's own descriptor and keep it stored with the k nearest nodes.

        It is stored again on schedule until it expires; its owner publishes a new one
        before that.

        Raises:
            ValueError: it is another node's or network's, or not newer than the last one.
        """
        self._check_present()
        if (descriptor.node_id, descriptor.network_id) != (self._own_id, self._network_id):
            raise ValueError("only this node's own descriptor, for this network, is published here")
        self._serve(descriptor)
        if self.parts.membership.phase is Phase.JOINED:
            self.parts.upkeep.publish(now)

    def resume(
        self,
        descriptor: MixDescriptor,
        contacts: Iterable[Contact],
        now: float,
        *,
        records: Iterable[tuple[MixDescriptor, bytes]] = (),
    ) -> None:
        """Become a member at once, as a node that has been one for a long time, and send nothing.

        Args:
            descriptor: this node's own one, which the nearest nodes hold already.
            contacts: the routing table; they count as having answered just now.
            now: Unix seconds.
            records: descriptors of others to store, each with the subnet that it came from.
                Those that do not verify, or for which there is no room, are left out.
        """
        self._check_present()
        self._serve(descriptor)
        self.parts.upkeep.resume(contacts, now)
        for record, source in records:
            with contextlib.suppress(PeerError, LimitReached):
                self.parts.store.put(record.node_id, record.encoded, source, now, responsible=True)

    def crawl(self, now: float) -> None:
        """Crawl now, unless a crawl is in progress."""
        self.parts.crawling.crawl(now)

    def hasten_crawl(self, now: float) -> None:
        """Crawl soon, because nodes may have moved; after a pause if one has just ended."""
        self.parts.crawling.hasten(now)

    def leave(self, now: float) -> None:
        """Send LEAVE to the contacts and to the holders of our descriptor, and stop.

        Datagrams follow until every LEAVE was answered or timed out (``calls_in_flight``).
        """
        parts = self.parts
        if parts.membership.phase is Phase.LEFT:
            return
        self._stop(now)
        nearest = parts.table.closest(self._own_id, _MAX_GOODBYES)
        everyone = parts.publisher.holders | {contact.node_id: contact for contact in nearest}
        goodbye = Leave(parts.publisher.sequence)
        for contact in list(everyone.values())[:_MAX_GOODBYES]:
            parts.calls.start(goodbye, contact.endpoint, contact.node_id, now, _ignore)

    def close(self, now: float) -> None:
        """Stop without a message, and release all parts.

        The core must not be used after that. Its memory is freed at once, even if objects that
        are about to be freed still refer to the core.
        """
        self._stop(now)
        del self.parts, self.reachability

    @property
    def versions(self) -> frozenset[int]:
        """The IP versions over which this host reaches others."""
        return self.parts.reach.versions

    @property
    def contact_count(self) -> int:
        """Number of contacts in the routing table."""
        return len(self.parts.table)

    @property
    def calls_in_flight(self) -> int:
        """Number of requests without an answer so far."""
        return len(self.parts.calls)

    def suspect_regions(self, now: float) -> int:
        """Return the number of regions of the key space that look eclipsed."""
        return self.parts.watch.suspected_regions(now)

    def clock_offset(self, now: float) -> ClockOffset | None:
        """Return how far this host's clock is off those of nodes that answered, if any did."""
        return self.parts.clock_watch.offset(now)

    def counters(self) -> Mapping[DhtCount, int]:
        """Return the counts of dropped and refused messages."""
        return dict(self.parts.counts)

    # The five methods that all cores have.

    def receive(self, batch: Iterable[tuple[bytes, Endpoint]], now: float) -> None:
        """Process datagrams (without the framing of the control channel); never raise."""
        parts = self.parts
        for data, source in batch:
            received = parts.reception.receive(data, source, now)
            if received is not None and parts.membership.phase is not Phase.LEFT:
                self._answer(received, now)
            parts.upkeep.look_around(now)

    def next_deadline(self) -> float:
        """Return when :meth:`handle_deadline` is due."""
        return min([part.next_deadline() for part in self.parts.timed])

    def handle_deadline(self, now: float) -> None:
        """Do what is due: repeat or end requests, greet, refresh, publish and crawl."""
        parts = self.parts
        parts.calls.handle_deadline(now)
        parts.walks.handle_deadline(now)
        parts.reachability.handle_deadline(now)
        parts.membership.greet(now)
        for task in parts.schedule.due(now):
            parts.upkeep.run(task, now)

    def events(self) -> list[DhtEvent]:
        """Return and remove the events so far."""
        return self.parts.events.take()

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Endpoint]]:  # noqa: ARG002 - one of the five verbs
        """Return and remove the datagrams to send."""
        return self.parts.outbox.take()

    # Inside.

    def _stop(self, now: float) -> None:
        """Forget all requests, lookups and tasks under way."""
        parts = self.parts
        parts.membership.leave()
        parts.walks.cancel_all()
        parts.calls.cancel_all()
        parts.schedule.cancel_all()
        parts.reachability.stop(now)

    def _answer(self, received: ReceivedRequest, now: float) -> None:
        """Answer a request, after acting on what it has shown."""
        parts = self.parts
        request, source = received
        response = parts.responder.answer(request, source, now)
        for learned in response.learned:
            match learned:
                case Proved(contact, by_ping):
                    # A ping never causes another one, or large overlays would never stop.
                    parts.membership.met(contact, now, may_probe=not by_ping)
                case Mistaken(asker):
                    parts.membership.mistaken(asker, now)
                case NodeLeft(node_id):
                    parts.publisher.holders.pop(node_id, None)
                    parts.membership.gone(node_id, now)
                    parts.events.append(learned)
                case DescriptorRenewed():
                    parts.events.append(learned)
        parts.upkeep.look_around(now)
        if response.datagram is not None:
            parts.outbox.send(response.datagram, source, now)

    def _serve(self, descriptor: MixDescriptor) -> None:
        parts = self.parts
        parts.publisher.replace(descriptor)
        parts.responder.own_descriptor = descriptor
        if not self._endpoints_given:
            parts.reach.own = frozenset(descriptor.endpoints)

    def _check_present(self) -> None:
        if self.parts.membership.phase is Phase.LEFT:
            raise ValueError("this node has left the DHT; a new Dht is needed to come back")


def _ignore(_answer: object, _now: float) -> None:
    """Do nothing when a LEAVE is answered."""
