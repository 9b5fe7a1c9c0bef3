"""Links to neighbours: handshakes, pairs of SAs and rekeying. This is the core, without I/O.

``Links`` finds the link of each message and timer and enforces the limits on all links together.
:mod:`overlay.link.machine` has the protocol of one link.

For every peer the events form ``(LinkFailed | LinkEstablished (LinkEstablished |
LinkSaRetired | LinkSaRemoved)* LinkClosed)*``. The first LinkEstablished opens the link, and
LinkClosed ends it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Final

from overlay.addresses import Endpoint, OverlayAddress
from overlay.errors import LimitReached, NotAuthentic, PeerError, Refused, Replayed
from overlay.identity import LocalIdentity
from overlay.ipsec.interface import Batch, Spi
from overlay.link.bounds import AcceptedTable, HalfOpenTable, LinksByEndpoint
from overlay.link.cookie import ReceiverKeys
from overlay.link.datagram_filter import DatagramFilter
from overlay.link.drops import LinkDrop, drop_of
from overlay.link.events import LinkEvent, LinkFailed, LinkFailure, LinkPeer
from overlay.link.exchange import Agreement, Credentials, WrongIdentity
from overlay.link.handshake import (
    CookieReply,
    Initiation,
    MessageType,
    Notice,
    Response,
    parse_message,
)
from overlay.link.keymat import is_authentic_notice
from overlay.link.machine import Link
from overlay.link.mtu_probes import MtuProbes
from overlay.link.noise import diffie_hellman
from overlay.link.outgoing import OutgoingHandshake
from overlay.link.pair import Offer, SaPair
from overlay.link.peer_endpoints import PeerEndpoints
from overlay.link.replay import InitiationClock
from overlay.link.responder import Admitted, HandshakeResponder
from overlay.link.services import LinkNumbers, LinkServices, Outbox
from overlay.link.settings import LinkSettings
from overlay.link.states import Cause, LinkInput, LinkState
from overlay.work_budget import WorkBudget

__all__ = ["DEFAULT_LINK_SUITES", "LinkDrop", "Links"]

DEFAULT_LINK_SUITES: Final = (3, 4, 2, 1)
"""AES-256-GCM first, because most CPUs have AES instructions. The other 256-bit suite follows."""

_RESPONDER_REKEY_FACTOR: Final = 1.2
"""The initiator of a pair rekeys first. The responder does so later, if that had no success."""

_REKEY_JITTER: Final = 0.1

_AFTER_PROBATION: Final = 2
"""Pause before keys are replaced after a move, in probations: one, and one for late answers."""


# Large: the facade of links; each kind of input is a method.
class Links:
    """All links of one node, keyed by the peer's overlay address.

    The settings bound the links: ``max_links`` in total, of which other nodes may open
    ``max_accepted_links`` (:class:`~overlay.link.bounds.AcceptedTable`). Half-open links have
    limits of their own (:class:`~overlay.link.bounds.HalfOpenTable`).
    """

    # Large: it builds all parts and connects them.
    def __init__(
        self,
        identity: LocalIdentity,
        network_id: str,
        settings: LinkSettings,
        rng: Random,
        allocate: Callable[[], Spi],
        release: Callable[[Spi], None],
        suites: Sequence[int] = DEFAULT_LINK_SUITES,
        budget: WorkBudget | None = None,
        local_endpoint: Callable[[Endpoint], Endpoint | None] = lambda _: None,
        draw_index: Callable[[], int] | None = None,
        probes_sizes: bool = False,
        clock: InitiationClock | None = None,
    ) -> None:
        """Prepare a node without links.

        Args:
            identity: of this node.
            network_id: name of the overlay; nodes of other networks cannot open links to it.
            settings: timers and limits.
            rng: source of keys, indexes and jitter.
            allocate: returns a free SPI; may raise LimitReached.
            release: frees an SPI.
            suites: ESP suites for links in order of preference, each from 1 to 4.
            budget: CPU time for initiations of unauthenticated senders; a new one by default.
            local_endpoint: returns the endpoint from which this host sends to a given endpoint,
                None if it is not known.
            draw_index: returns an index for a handshake, 32 random bits by default.
            probes_sizes: whether to probe how large the datagrams of links may be.
            clock: source of the timestamps of our initiations.

        Raises:
            ValueError: ``suites`` is empty or names another suite.
        """
        self._settings = settings
        self._services = LinkServices(
            credentials=Credentials.of(identity, network_id, suites),
            settings=settings,
            rng=rng,
            numbers=LinkNumbers(draw_index or partial(rng.getrandbits, 32), allocate, release),
            outbox=Outbox(),
            clock=clock or InitiationClock(),
            local_endpoint=local_endpoint,
            endpoints=PeerEndpoints(
                allow_private=settings.allow_private_endpoints, most=settings.max_known_initiators
            ),
        )
        self.endpoints = self._services.endpoints
        credentials = self._services.credentials
        keys = ReceiverKeys.of(credentials.link_key, credentials.network_hash)
        self._filter = DatagramFilter(keys, self._services.numbers)
        self._responder = HandshakeResponder(
            credentials, keys, settings, rng, budget, self._pair_cookie
        )
        self._links: dict[OverlayAddress, Link] = {}
        self._places = LinksByEndpoint()
        self._accepted = AcceptedTable(settings)
        self._half_open = HalfOpenTable(settings)
        self._offering: set[OverlayAddress] = set()
        self._drops: Counter[LinkDrop] = Counter()
        self._deadline: float | None = math.inf
        self._probes = MtuProbes(rng, self._services.outbox, probes=probes_sizes)

    def __len__(self) -> int:
        return len(self._links)

    def datagram_bytes(self, overlay_address: OverlayAddress) -> int | None:
        """Return the UDP payload in bytes that a link carries, None if it is not known yet."""
        return self._probes.found(overlay_address)

    def drops(self) -> dict[LinkDrop, int]:
        """Return the number of dropped datagrams by reason."""
        return dict(self._drops)

    # What the node asks for

    def connect(self, peer: LinkPeer, now: float) -> None:
        """Open a link unless it exists. LinkEstablished or LinkFailed follows.

        Circuits of other nodes and paths of our own are treated alike. Otherwise a neighbour could
        learn from the difference which circuits are our own.

        Args:
            peer: the node to reach.
            now: Unix seconds.

        Raises:
            ValueError: the peer is this node.
        """
        if peer.overlay_address == self._services.credentials.overlay_address:
            raise ValueError("a node has no link to itself.")
        link = self._links.get(peer.overlay_address)
        peer = self.endpoints.best_first(peer)
        failure = self._obstacle(peer) if link is None else None
        if failure is not None:
            self._services.outbox.announce(LinkFailed(peer.overlay_address, failure))
            return
        link = link or Link(self._services, peer.overlay_address)
        link.feed(LinkInput.CONNECT, Cause(now, peer=peer))
        self._settle(peer.overlay_address, link, now)

    def rekey(
        self,
        overlay_address: OverlayAddress,
        now: float,
        worn: Spi | None = None,
        *,
        moved: bool = False,
    ) -> None:
        """Replace the SAs of a link at once, or after a change that is under way.

        It waits until they are ``rekey_pause_s`` old. This also detects an unreachable peer: if it
        answers neither the rekeying nor a challenge on the current SAs, the link closes.

        Args:
            overlay_address: the peer.
            now: Unix seconds.
            worn: inbound SPI of the pair to replace, None for the current pair. Nothing happens if
                that pair was replaced already.
            moved: whether the peer has just moved. New keys end the probation of its new endpoint,
                so the rekeying waits until the probation is over.
        """
        link = self._links.get(overlay_address)
        if link is None:
            return
        # An offered pair can reach its soft limit too, while the proof of its peer is under way.
        for pair in (link.current, link.offered):
            if pair is not None and worn in (pair.inbound_spi, None):
                if moved:
                    # Also later than planned, because a second move has a probation of its own.
                    pair.rekey_at = now + _AFTER_PROBATION * self._settings.endpoint_silence_s
                else:
                    soonest = max(now, pair.agreed_at + self._settings.rekey_pause_s)
                    pair.rekey_at = min(pair.rekey_at, soonest)
                link.handle_deadline(now)
                self._settle(overlay_address, link, now)
                return

    def close(
        self,
        overlay_address: OverlayAddress,
        now: float,
        reason: LinkFailure = LinkFailure.IDLE,
    ) -> None:
        """Close a link and inform the peer. Nothing happens if the link does not exist."""
        link = self._links.get(overlay_address)
        if link is not None:
            link.feed(LinkInput.CLOSE, Cause(now, reason=reason))
            self._settle(overlay_address, link, now)

    def close_all(self, now: float) -> None:
        """Close all links, because the node stops."""
        for overlay_address in list(self._links):
            self.close(overlay_address, now, LinkFailure.SHUTDOWN)

    def seen_at(self, inbound_spi: Spi, source: Endpoint, now: float) -> None:
        """Process the source of an authentic ESP packet that differs from the endpoint of its SA.

        It does not prove that the peer has moved, so it only causes a challenge.
        """
        found = self._pair(inbound_spi)
        if found is not None and self.endpoints.allows(source):
            link, pair = found
            link.seen_at(source, now)
            self._settle(pair.agreement.overlay_address, link, now)

    # The five verbs

    def receive(self, batch: Batch, now: float) -> None:
        """Process payloads of the link channel with their sources.

        Raises:
            Nothing, whatever the bytes: invalid messages are counted in :meth:`drops`.
        """
        for data, source in batch:
            drop = self._drop_early(data, source, now)
            if drop is not None:
                self._drops[drop] += 1
                continue
            try:
                self._receive_one(data, source, now)
            except (PeerError, LimitReached) as error:
                self._drops[drop_of(error)] += 1

    def next_deadline(self) -> float:
        """Return when to call :meth:`handle_deadline`."""
        if self._deadline is None:
            links = min((link.deadline() for link in self._links.values()), default=math.inf)
            self._deadline = min(links, self._probes.next_deadline())
        return self._deadline

    def handle_deadline(self, now: float) -> None:
        """Do everything that is due. Afterwards the next deadline is later than ``now``."""
        if now < self.next_deadline():
            return
        for overlay_address, link in list(self._links.items()):
            if link.deadline() <= now:
                link.handle_deadline(now)
                self._settle(overlay_address, link, now)
        self._probes.handle_deadline(now)
        self._deadline = None

    def events(self) -> list[LinkEvent]:
        """Drain the events. Act on them before sending :meth:`datagrams_to_send`."""
        return self._services.outbox.take_events()

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Endpoint]]:  # noqa: ARG002 - the verb's shape
        """Drain the payloads to send on the link channel."""
        return self._services.outbox.take_datagrams()

    def whole_datagrams_to_send(self) -> list[tuple[bytes, Endpoint]]:
        """Drain the payloads to send on the link channel that must not be fragmented."""
        return self._services.outbox.take_whole()

    # Messages

    def _drop_early(self, data: bytes, source: Endpoint, now: float) -> LinkDrop | None:
        drop = self._filter.drop(data)
        if drop is not None or data[0] != MessageType.INITIATION:
            return drop
        if not self.endpoints.allows(source):
            return LinkDrop.ENDPOINT
        return self._responder.drop_early(data, source, now, self._services.outbox.send)

    def _receive_one(self, data: bytes, source: Endpoint, now: float) -> None:
        if not self.endpoints.allows(source):
            self._drops[LinkDrop.ENDPOINT] += 1
            return
        message = parse_message(data)
        if isinstance(message, Initiation):
            self._on_initiation(message, source, now)
        elif isinstance(message, Notice):
            self._on_notice(message, source, now, len(data))
        else:
            self._on_reply(message, source, now)

    def _on_initiation(self, initiation: Initiation, source: Endpoint, now: float) -> None:
        wants_cookie = self._half_open.wants_cookie(source)
        try:
            verdict = self._responder.judge(initiation, source, now, wants_cookie=wants_cookie)
        except Replayed:
            if self._answer_again(initiation, source):
                return
            raise
        if isinstance(verdict, bytes):
            self._drops[LinkDrop.COOKIE] += 1
            self._services.outbox.send(verdict, source)
        else:
            self._answer(initiation, verdict, source, now)

    def _answer_again(self, initiation: Initiation, source: Endpoint) -> bool:
        """Answer a further copy of an initiation, which came from another endpoint."""
        offering = (self._links[each] for each in self._offering)
        return any(link.answer_again(initiation.mac1, source) for link in offering)

    def _answer(
        self, message: Initiation, admitted: Admitted, source: Endpoint, now: float
    ) -> None:
        initiation, proved = admitted.initiation, admitted.address_proved
        overlay_address = initiation.overlay_address
        credentials, numbers = self._services.credentials, self._services.numbers
        if overlay_address == credentials.overlay_address:
            raise Refused("an initiation under our own identity")
        link = self._links.get(overlay_address)
        if link is None and not self._has_place_at(source):
            raise LimitReached("too many links, in all or from one prefix")
        if proved and (link is None or link.current is None):
            self._half_open.check(overlay_address, source)
        suite = initiation.choose_suite(credentials)
        outbound_spi = initiation.opened.payload.inbound_spi
        # A link does not move because a copy of the peer's initiation came from elsewhere.
        in_use = link.current.endpoint if link is not None and link.current is not None else None
        endpoint = in_use or source
        numbers.claim_outbound(endpoint, outbound_spi)
        try:
            inbound_spi = numbers.new_spi(overlay_address)
        except LimitReached:
            numbers.release_outbound(endpoint, outbound_spi)
            raise
        # No error can follow, because the handshake has used both keys of the initiator already.
        agreement, response = initiation.respond(
            credentials,
            suite=suite,
            inbound_spi=inbound_spi,
            ephemeral=self._services.rng.randbytes(32),
        )
        if link is None:
            link = Link(self._services, overlay_address)
            self._accepted.add(overlay_address, source, proved=proved)
        pair = self._new_pair(agreement, endpoint, now, ours=False)
        pair.proof = self._services.new_proof(in_use, source)
        # The first copy may not be the peer's own, so the endpoint in use is answered as well.
        sources = [source] if endpoint == source else [source, endpoint]
        pair.offer = Offer(message.mac1, response.encode(), sources, proved)
        link.feed_offer(Cause(now, pair=pair))
        self._settle(overlay_address, link, now)

    def _on_reply(self, message: Response | CookieReply, source: Endpoint, now: float) -> None:
        owner = self._services.numbers.owner_of_index(message.receiver_index)
        link = self._links.get(owner) if owner is not None else None
        handshake = link.handshake if link is not None else None
        if link is None or handshake is None or source not in handshake.peer.endpoints:
            self._drops[LinkDrop.UNKNOWN] += 1
        elif isinstance(message, CookieReply):
            handshake.take_cookie(message, source)
        else:
            self._on_response(link, handshake, message, source, now)

    def _on_response(
        self,
        link: Link,
        handshake: OutgoingHandshake,
        response: Response,
        endpoint: Endpoint,
        now: float,
    ) -> None:
        overlay_address = handshake.peer.overlay_address
        if not handshake.is_answer(response):
            raise NotAuthentic("a response whose maker could not read the initiation")
        try:
            agreement = handshake.complete(response)
            self._services.numbers.claim_outbound(endpoint, agreement.secrets.keys.outbound_spi)
        except PeerError as error:
            if isinstance(error, WrongIdentity):
                link.feed(LinkInput.GIVE_UP, Cause(now, reason=LinkFailure.NOT_AUTHENTIC))
            else:
                handshake.abandon()  # otherwise each copy of this response would cost CPU time
            self._settle(overlay_address, link, now)
            raise
        if handshake.peer.others:
            self.endpoints.remember(overlay_address, endpoint)
        pair = self._new_pair(agreement, endpoint, now, ours=True)
        link.feed(LinkInput.RESPONSE, Cause(now, pair=pair))
        self._settle(overlay_address, link, now)

    def _on_notice(self, notice: Notice, source: Endpoint, now: float, size: int) -> None:
        found = self._pair(notice.receiver_spi)
        if found is None:
            self._drops[LinkDrop.UNKNOWN] += 1
            return
        link, pair = found
        if not is_authentic_notice(notice, pair.agreement.secrets):
            raise NotAuthentic("the tag of a notice does not fit")
        if notice.kind is MessageType.CLOSE:
            link.peer_closed(pair, now)
        elif notice.kind is MessageType.CONFIRM:
            link.confirmed(pair, source, now)
        elif notice.kind is MessageType.CHALLENGE:
            link.challenged(pair, notice.token)
        elif notice.kind is MessageType.PROBE:
            self._probes.answer(pair, notice, size)
        elif notice.kind is MessageType.PROBED:
            self._probes.answered(pair.agreement.overlay_address, notice.token, now)
        else:
            link.echoed(pair, notice, source, now)
        self._settle(pair.agreement.overlay_address, link, now)

    # Bounds and tables

    def _has_place_at(self, endpoint: Endpoint) -> bool:
        """Tell whether the limits admit one more link that a node at ``endpoint`` opens.

        Links from addresses that are not proved do not count.
        """
        taken = len(self._links) - self._accepted.unproved
        return taken < self._settings.max_links and self._accepted.admits(endpoint)

    def _obstacle(self, peer: LinkPeer) -> LinkFailure | None:
        if not self.endpoints.allows(peer.endpoint):
            return LinkFailure.REFUSED
        if len(self._links) >= self._settings.max_links:
            return LinkFailure.LIMIT
        try:
            diffie_hellman(self._services.credentials.link_private, peer.link_key)
        except NotAuthentic:
            return LinkFailure.NOT_AUTHENTIC
        return None

    def _new_pair(
        self, agreement: Agreement, endpoint: Endpoint, now: float, *, ours: bool
    ) -> SaPair:
        jitter = 1 - _REKEY_JITTER * self._services.rng.random()
        factor = jitter if ours else _RESPONDER_REKEY_FACTOR
        rekey_at = now + self._settings.rekey_after_s * factor
        return SaPair(agreement, endpoint, ours=ours, agreed_at=now, rekey_at=rekey_at)

    def _pair_cookie(self, endpoint: Endpoint) -> bytes | None:
        owner = self._places.at(endpoint)
        link = self._links.get(owner) if owner is not None else None
        pair = link.current if link is not None else None
        return pair.agreement.secrets.cookie.reveal() if pair is not None else None

    def _pair(self, inbound_spi: Spi) -> tuple[Link, SaPair] | None:
        owner = self._services.numbers.owner_of_spi(inbound_spi)
        link = self._links.get(owner) if owner is not None else None
        pair = link.pair(inbound_spi) if link is not None else None
        return (link, pair) if link is not None and pair is not None else None

    def _settle(self, overlay_address: OverlayAddress, link: Link, now: float) -> None:
        """Update all tables after a link may have changed."""
        self._deadline = None
        current = link.current
        if current is not None and not self._accepted.settle(
            overlay_address, current.endpoint, in_use=overlay_address in self._places
        ):
            self._drops[LinkDrop.LIMIT] += 1
            link.feed(LinkInput.CLOSE, Cause(now, reason=LinkFailure.LIMIT))
        self._places.note(overlay_address, link.current.endpoint if link.current else None)
        self._probes.follow(overlay_address, link.current, now)
        if link.state is LinkState.CLOSED:
            self._links.pop(overlay_address, None)
            self._accepted.discard(overlay_address)
        else:
            self._links[overlay_address] = link
        if link.offered is not None:
            self._offering.add(overlay_address)
        else:
            self._offering.discard(overlay_address)
        if link.current is None and link.offered is not None:
            offer, endpoint = link.offered.offer, link.offered.endpoint
            proved = offer is not None and offer.address_proved
            self._half_open.note(overlay_address, endpoint, proved=proved)
        else:
            self._half_open.note(overlay_address, None)
