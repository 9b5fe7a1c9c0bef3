"""Our half of a handshake that we began: attempts, cookies, the response."""

from __future__ import annotations

from typing import Final

from overlay.errors import LimitReached, NotAuthentic, Refused
from overlay.link.backoff import Backoff
from overlay.link.cookie import ReceiverKeys, open_cookie, with_macs
from overlay.link.exchange import Agreement, SentInitiation
from overlay.link.handshake import GEOMETRY, CookieReply, Response
from overlay.link.model import LinkPeer
from overlay.link.services import LinkServices

__all__ = ["MAX_COOKIES", "OutgoingHandshake"]

MAX_COOKIES: Final = 4
"""Cookie replies to one attempt that are believed. An observer of the initiation can invent one, so
the genuine reply may come after others."""


class OutgoingHandshake:
    """Repeats initiations to one peer until a response fits, or its owner gives up.

    Every attempt is a new handshake with its own keys, index, SPI and timestamp: a
    responder refuses the same bytes twice. Only the latest attempt may be answered, for the
    responder keeps only that one.
    """

    def __init__(self, services: LinkServices, peer: LinkPeer, now: float) -> None:
        self._services = services
        self._peer = peer
        self._receiver = ReceiverKeys.of(peer.link_key, services.credentials.network_hash)
        self._cookie: bytes | None = None
        self._sent: SentInitiation | None = None
        self._mac1 = b""
        self._cookies_left = 0
        self.backoff = Backoff(services.settings, services.rng, now)

    @property
    def peer(self) -> LinkPeer:
        """Whom this handshake is with."""
        return self._peer

    def attempt(self, now: float) -> None:
        """Send a fresh initiation in place of any earlier one."""
        self.abandon()
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
        self._cookies_left = MAX_COOKIES
        self._send(self._sent)

    def _send(self, sent: SentInitiation) -> None:
        data = with_macs(sent.message, self._receiver, self._cookie)
        self._mac1 = data[-2 * GEOMETRY.mac : -GEOMETRY.mac]
        self._services.outbox.send(data, self._peer.endpoint)

    def take_cookie(self, reply: CookieReply) -> None:
        """Repeat the latest initiation with the cookie, once for each cookie.

        Raises:
            NotAuthentic: it was not made for this initiation.
            Refused: this attempt has had that cookie, or too many.
        """
        if self._sent is None or not self._cookies_left:
            raise Refused("too many cookies for one initiation")
        cookie = open_cookie(reply, self._receiver, self._mac1)
        if cookie == self._cookie and self._cookies_left < MAX_COOKIES:
            raise Refused("the same cookie again")
        self._cookie = cookie
        self._cookies_left -= 1
        self._send(self._sent)

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
        if self._sent is not None:
            self._services.numbers.release_spi(self._sent.inbound_spi)
            self.finish()

    def finish(self) -> None:
        """Release the index alone: the SPI has become a pair's."""
        if self._sent is not None:
            self._services.numbers.release_index(self._sent.index)
            self._sent = None
