"""Links to neighbouring nodes: handshakes, pairs of SAs, rekeying; the core without I/O.

This class routes: it finds the link that a message or a timer is for, holds the bounds on
all links together, and leaves the protocol to :mod:`overlay.link.machine`.

For every peer the events form ``(LinkFailed | LinkEstablished (LinkEstablished |
LinkSaRetired | LinkSaRemoved)* LinkClosed)*``: what the first LinkEstablished opened,
LinkClosed ends.
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
"""AES-256-GCM first, for most machines have AES instructions; then what resists as long."""

_RESPONDER_REKEY_FACTOR: Final = 1.2
"""The initiator of a pair rekeys first; the responder only if nothing came of that."""

_REKEY_JITTER: Final = 0.1

_AFTER_PROBATION: Final = 2
"""Probations after a move until the keys are replaced: one, and as much again for late answers."""


class Links:
    """All links of one node, keyed by the peer's overlay address.

    Owns every link. Bounded by the settings: ``max_links`` in all, ``max_accepted_links``
    that strangers may open, :class:`~overlay.link.bounds.AcceptedTable` among those,
    and the half-open ones by :class:`~overlay.link.bounds.HalfOpenTable`.
    """

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
            identity: ours.
            network_id: nodes of another network can neither answer nor be answered.
            settings: timers and bounds.
            rng: the source of keys, indexes and jitter.
            allocate: draws a free SPI; may raise LimitReached.
            release: takes it back.
            suites: ESP suites for links in order of preference, each from 1 to 4.
            budget: CPU time for initiations of strangers; one of its own by default.
            local_endpoint: returns from which endpoint this host sends to a peer's, None if that
                is not known.
            draw_index: draws the index of a handshake, 32 random bits by default.
            probes_sizes: find out how large the datagrams of links may be.
            clock: stamps our initiations.

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
        )
        credentials = self._services.credentials
        keys = ReceiverKeys.of(credentials.link_key, credentials.network_hash)
        self._sieve = DatagramFilter(keys, self._services.numbers)
        self._responder = HandshakeResponder(
            credentials, keys, settings, rng, budget, self._pair_cookie
        )
        self._links: dict[OverlayAddress, Link] = {}
        self._places = LinksByEndpoint()
        self._accepted = AcceptedTable(settings)
        self._half_open = HalfOpenTable(settings)
        self._offering: set[OverlayAddress] = set()
        self.endpoints = PeerEndpoints(
            allow_private=settings.allow_private_endpoints, most=settings.max_known_initiators
        )
        self._drops: Counter[LinkDrop] = Counter()
        self._deadline: float | None = math.inf
        self._probes = MtuProbes(rng, self._services.outbox, probes=probes_sizes)

    def __len__(self) -> int:
        return len(self._links)

    def datagram_bytes(self, overlay_address: OverlayAddress) -> int | None:
        """Return what a link's probes found that its datagrams may have, None before that."""
        return self._probes.found(overlay_address)

    def drops(self) -> dict[LinkDrop, int]:
        """Return how many datagrams were dropped, by cause."""
        return dict(self._drops)

    # What the node asks for

    def connect(self, peer: LinkPeer, now: float) -> None:
        """Open a link, unless there is one: LinkEstablished or LinkFailed will follow.

        Whether a circuit of others or a path of our own needs it makes no difference, because a
        neighbour could learn from such a difference which circuits are our own.

        Args:
            peer: to whom.
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
        """Replace a link's SAs soon: at once, or when a change that is under way has ended.

        It waits until they are ``rekey_pause_s`` old. Also tells a silent peer from a dead one: if
        it answers neither this nor a challenge under the current SAs, the link closes.

        Args:
            overlay_address: the peer.
            now: Unix seconds.
            worn: the inbound SPI of the pair that is to be replaced, None for the current one;
                nothing happens if it has been.
            moved: the peer has just moved. New keys end the probation of its new endpoint, so they
                come after that.
        """
        link = self._links.get(overlay_address)
        if link is None:
            return
        # A pair that the peer has offered wears out too while its proof is under way.
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
        """Drop a link and tell the peer; nothing happens if there is none."""
        link = self._links.get(overlay_address)
        if link is not None:
            link.feed(LinkInput.CLOSE, Cause(now, reason=reason))
            self._settle(overlay_address, link, now)

    def close_all(self, now: float) -> None:
        """Drop all links, because the node stops."""
        for overlay_address in list(self._links):
            self.close(overlay_address, now, LinkFailure.SHUTDOWN)

    def seen_at(self, inbound_spi: Spi, source: Endpoint, now: float) -> None:
        """Take the source of an authentic ESP packet that came from elsewhere than its SA's peer.

        It is a reason to ask, and proves nothing.
        """
        found = self._pair(inbound_spi)
        if found is not None and self.endpoints.allows(source):
            link, pair = found
            link.seen_at(source, now)
            self._settle(pair.agreement.overlay_address, link, now)

    # The five verbs

    def receive(self, batch: Batch, now: float) -> None:
        """Take payloads of the link channel and where they came from.

        Raises:
            Nothing, whatever the bytes: what is not acceptable is counted in :meth:`drops`.
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
        """Resend, expire, rekey what is due; afterwards the next deadline lies after ``now``."""
        if now < self.next_deadline():
            return
        for overlay_address, link in list(self._links.items()):
            if link.deadline() <= now:
                link.handle_deadline(now)
                self._settle(overlay_address, link, now)
        self._probes.handle_deadline(now)
        self._deadline = None

    def events(self) -> list[LinkEvent]:
        """Drain what happened; act on it before sending :meth:`datagrams_to_send`."""
        return self._services.outbox.take_events()

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Endpoint]]:  # noqa: ARG002 - the verb's shape
        """Drain what must leave on the link channel."""
        return self._services.outbox.take_datagrams()

    def whole_datagrams_to_send(self) -> list[tuple[bytes, Endpoint]]:
        """Drain what must leave on the link channel and may not be fragmented."""
        return self._services.outbox.take_whole()

    # Messages

    def _drop_early(self, data: bytes, source: Endpoint, now: float) -> LinkDrop | None:
        drop = self._sieve.drop(data)
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
        """Answer an initiation of which a copy came first, from another endpoint."""
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
        # No error below: the handshake has used both of the initiator's keys already.
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
                handshake.abandon()  # or each copy of this response would be read
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
        """Tell whether strangers have a place for a link to this endpoint.

        Links from addresses that are not proved take none.
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
        """Bring the tables in line with a link that may have changed."""
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
