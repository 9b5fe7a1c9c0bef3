"""Our half of a handshake that we began: attempts, cookies, the response."""

from __future__ import annotations

import contextlib
import hmac
import math
from typing import Final

from overlay.addresses import Endpoint
from overlay.errors import LimitReached, NotAuthentic, Refused
from overlay.link.backoff import Backoff
from overlay.link.cookie import ReceiverKeys, open_cookie, with_macs
from overlay.link.endpoint_proof import TOKEN_BYTES
from overlay.link.events import LinkPeer
from overlay.link.exchange import Agreement, SentInitiation
from overlay.link.handshake import GEOMETRY, CookieReply, Response
from overlay.link.services import LinkServices

__all__ = ["MAX_COOKIES", "OutgoingHandshake"]

MAX_COOKIES: Final = 32
"""Cookies that one attempt tries at once. An observer of the initiation can invent some, so the
genuine reply may come after others."""

_SAMPLE: Final = 32
"""Of the replies beyond these, so many serve the next attempt, each with equal chance. A fixed
choice, as of the first ones, would let an observer keep the genuine ones out for good. The
responder sends one for each cookie that was wrong, so they are many, too."""

_STAGGER_S: Final = 0.25
"""Before the next endpoint is tried while the last one may still answer (RFC 8305, section 5)."""


_INSIST_S: Final = 0.4
"""Between two copies to a silent peer. If it reads a tenth of what comes, it has probably read
one of them after ten seconds. More would let a source that invents a next hop send more there."""


class OutgoingHandshake:
    """Repeats initiations to one peer until a response fits, or its owner gives up.

    A peer with several endpoints gets a copy of each initiation at every one of them, one after
    the other. The peer answers each copy with the same response, and the first to arrive wins.
    From the second attempt on, endpoints that have given no cookie get further copies until the
    next attempt, because a peer under a flood reads only a part of what comes without one.

    Every attempt is a new handshake with its own keys, index, SPI and timestamp: a
    responder refuses the same bytes twice. Only the latest attempt may be answered, for the
    responder keeps only that one.

    ``probe`` is a token that tells an owner with a link whether the peer is there, and
    ``peer_is_there`` what came of it.
    """

    def __init__(
        self, services: LinkServices, peer: LinkPeer, now: float, pair_cookie: bytes | None = None
    ) -> None:
        """Prepare a handshake; :meth:`attempt` begins it.

        Args:
            services: of all links.
            peer: with whom.
            now: Unix seconds.
            pair_cookie: what the current pair offers instead of a cookie, if there is one.
        """
        self._services = services
        self._peer = peer
        self._receiver = ReceiverKeys.of(peer.link_key, services.credentials.network_hash)
        self._pair_cookie = pair_cookie
        self._cookies: dict[Endpoint, bytes] = {}
        self._copies: list[Endpoint] = []
        self._copy_at = math.inf
        self._stagger_s = _STAGGER_S
        self._attempts = 0
        self._sample: list[tuple[CookieReply, bytes, Endpoint]] = []
        self._sent: SentInitiation | None = None
        self._mac1 = b""
        self._tried: set[tuple[Endpoint, bytes]] = set()
        self._excess = 0
        self.backoff = Backoff(services.settings, services.rng, now)
        self.probe = services.rng.randbytes(TOKEN_BYTES)
        self.peer_is_there = False

    @property
    def peer(self) -> LinkPeer:
        """Whom this handshake is with."""
        return self._peer

    @property
    def deadline(self) -> float:
        """When there is something to send, or to give up."""
        return min(self.backoff.deadline, self._copy_at)

    def attempt(self, now: float) -> None:
        """Send a fresh initiation in place of any earlier one, to the first endpoint at once."""
        self.abandon()
        self._attempts += 1
        self.backoff.advance(now)
        numbers, address = self._services.numbers, self._peer.overlay_address
        try:
            spi = numbers.new_spi(address)
        except LimitReached:
            return  # the next attempt may find one
        self._sent = SentInitiation.create(
            self._services.credentials,
            self._peer,
            index=numbers.new_index(address),
            inbound_spi=spi,
            timestamp_us=self._services.clock.stamp(now),
            ephemeral=self._services.rng.randbytes(32),
        )
        self._tried = self._sampled_cookies()
        self._excess = 0
        first, *self._copies = self._peer.endpoints
        self._stagger_s = min(_STAGGER_S, (self.backoff.next_at - now) / (len(self._copies) + 1))
        self._copy_at = math.inf
        self._plan_copies(now)
        self._send(self._sent, first, self._pair_cookie or self._cookies.get(first))
        for endpoint, cookie in self._tried:
            self._send(self._sent, endpoint, cookie)

    def send_copies(self, now: float) -> None:
        """Send the latest initiation to the next endpoint if that is due."""
        while self._copies and self._copy_at <= now and self._sent is not None:
            endpoint = self._copies.pop(0)
            self._send(self._sent, endpoint, self._cookies.get(endpoint))
            self._plan_copies(now)
        if not self._copies:
            self._copy_at = math.inf

    def _plan_copies(self, now: float) -> None:
        """Set when the next copy is due: first one to each endpoint, then more."""
        if self._copies:
            self._copy_at = now + self._stagger_s
        elif self._attempts > 1 and self._pair_cookie is None:
            self._copies = [each for each in self._peer.endpoints if each not in self._cookies]
            self._copy_at = now + _INSIST_S

    def _send(self, sent: SentInitiation, endpoint: Endpoint, cookie: bytes | None) -> None:
        data = with_macs(sent.message, self._receiver, cookie)
        self._mac1 = data[-2 * GEOMETRY.mac : -GEOMETRY.mac]
        self._services.outbox.send(data, endpoint)

    def take_cookie(self, reply: CookieReply, source: Endpoint) -> None:
        """Repeat the latest initiation with the cookie to its source, once for each cookie.

        Raises:
            NotAuthentic: it was not made for this initiation.
            Refused: this attempt has had that cookie, or too many.
        """
        if self._sent is None:
            raise Refused("a cookie for no initiation")
        if len(self._tried) >= MAX_COOKIES:
            self._keep_for_later(reply, source)
            raise Refused("too many cookies for one initiation")
        cookie = open_cookie(reply, self._receiver, self._mac1)
        if (source, cookie) in self._tried:
            raise Refused("the same cookie again")
        self._tried.add((source, cookie))
        self._cookies[source] = cookie
        self._copies = [each for each in self._copies if each != source]
        self._send(self._sent, source, cookie)

    def _keep_for_later(self, reply: CookieReply, source: Endpoint) -> None:
        """Keep a reply unopened, with the same chance as any other (Vitter's algorithm R)."""
        self._excess += 1
        if len(self._sample) < _SAMPLE:
            self._sample.append((reply, self._mac1, source))
            return
        place = self._services.rng.randrange(self._excess)
        if place < _SAMPLE:
            self._sample[place] = (reply, self._mac1, source)

    def _sampled_cookies(self) -> set[tuple[Endpoint, bytes]]:
        """Open the sample of the last attempt; a cookie outlives the initiation that it answers."""
        sample, self._sample = self._sample, []
        cookies = set()
        for reply, mac1, source in sample:
            with contextlib.suppress(NotAuthentic):
                cookies.add((source, open_cookie(reply, self._receiver, mac1)))
        return cookies

    def probed(self, token: bytes) -> None:
        """Take an authentic echo of the peer: is it that of our probe?"""
        if hmac.compare_digest(token, self.probe):
            self.peer_is_there = True

    def is_answer(self, response: Response) -> bool:
        """Tell, for one hash, whether the reader of the latest initiation made a response."""
        return self._sent is not None and self._sent.is_from_responder(response)

    def complete(self, response: Response) -> Agreement:
        """Read a response to the latest initiation; see :meth:`SentInitiation.complete`.

        Raises:
            NotAuthentic, WrongIdentity, Malformed: as there.
        """
        if self._sent is None:
            raise NotAuthentic("a response to no initiation")
        return self._sent.complete(response)

    def abandon(self) -> None:
        """Release the latest attempt's numbers; no response will fit from now on."""
        self._copies, self._copy_at = [], math.inf
        if self._sent is not None:
            self._services.numbers.release_spi(self._sent.inbound_spi)
            self.finish()

    def finish(self) -> None:
        """Release the index alone: the SPI has become a pair's."""
        if self._sent is not None:
            self._services.numbers.release_index(self._sent.index)
            self._sent = None
