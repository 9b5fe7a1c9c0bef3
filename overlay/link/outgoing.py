"""The initiator's side of a handshake: attempts, copies to other endpoints, cookies, response."""

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

__all__ = ["MAX_COOKIES", "STAGGER_S", "OutgoingHandshake"]

MAX_COOKIES: Final = 32
"""Most cookies that one attempt tries. An observer of the initiation can send false cookies, so
the genuine reply may arrive after others."""

_SAMPLE: Final = 32
"""Number of further replies that the next attempt tries, drawn with equal probability. With a fixed
choice, such as the first ones, an observer could always exclude the genuine replies. There are many
genuine ones, because the responder sends one for each wrong cookie."""

STAGGER_S: Final = 0.25
"""Pause before the next endpoint is tried (Connection Attempt Delay, RFC 8305, section 5)."""

_REKEY_STAGGER_S: Final = 0.1
"""The same pause in a rekeying. It is shorter, because the link may carry nothing meanwhile, and
the answer must arrive before the next attempt (after 0.5 s), which accepts no earlier answer."""


_INSIST_S: Final = 0.4
"""Pause between two copies to a silent peer. Even a peer that reads only a tenth of its datagrams
has probably read one copy after ten seconds. A shorter pause would send more datagrams to an
endpoint that a malicious source invented as a next hop."""


class OutgoingHandshake:
    """Repeat initiations to one peer until a valid response arrives, or the owner gives up.

    A copy of each initiation is sent to every endpoint of the peer, one after the other. The peer
    answers each copy with the same response, and the first to arrive is used. From the second
    attempt on, endpoints that sent no cookie get further copies until the next attempt. The reason
    is that a flooded peer reads only a part of the initiations without a cookie.

    Every attempt is a new handshake with its own keys, index, SPI and timestamp, because a
    responder refuses the same bytes twice. Only the latest attempt can be answered, because the
    responder keeps only that one.

    ``probe`` is a token for a challenge on the current pair. ``peer_is_there`` is True after the
    peer has echoed it.
    """

    def __init__(
        self, services: LinkServices, peer: LinkPeer, now: float, pair_cookie: bytes | None = None
    ) -> None:
        """Prepare a handshake; :meth:`attempt` begins it.

        Args:
            services: the shared objects of all links.
            peer: the responder.
            now: Unix seconds.
            pair_cookie: secret of the current pair that replaces a cookie, None without a pair.
        """
        self._services = services
        self._peer = peer
        self._receiver = ReceiverKeys.of(peer.link_key, services.credentials.network_hash)
        self._pair_cookie = pair_cookie
        self._cookies: dict[Endpoint, bytes] = {}
        self._copies: list[Endpoint] = []
        self._copy_at = math.inf
        self._stagger_s = STAGGER_S
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
        """The responder."""
        return self._peer

    @property
    def deadline(self) -> float:
        """When the next message is due, or when to give up."""
        return min(self.backoff.deadline, self._copy_at)

    def attempt(self, now: float) -> None:
        """Send a new initiation to the first endpoint, and schedule copies to the others.

        A rekeying also tries the endpoints that the peer publishes by now, because the peer or the
        NAT before it may have changed the endpoint in use.
        """
        self.abandon()
        if self._pair_cookie is not None:
            self._peer = self._services.endpoints.as_published(self._peer)
        self._attempts += 1
        self.backoff.advance(now)
        numbers, address = self._services.numbers, self._peer.overlay_address
        try:
            spi = numbers.new_spi(address)
        except LimitReached:
            return  # an SPI may be free at the next attempt
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
        pause_s = STAGGER_S if self._pair_cookie is None else _REKEY_STAGGER_S
        self._stagger_s = min(pause_s, (self.backoff.next_at - now) / (len(self._copies) + 1))
        self._copy_at = math.inf
        self._plan_copies(now)
        self._send(self._sent, first, self._pair_cookie or self._cookies.get(first))
        for endpoint, cookie in self._tried:
            self._send(self._sent, endpoint, cookie)

    def send_copies(self, now: float) -> None:
        """Send the copies of the latest initiation that are due."""
        while self._copies and self._copy_at <= now and self._sent is not None:
            endpoint = self._copies.pop(0)
            self._send(self._sent, endpoint, self._cookies.get(endpoint))
            self._plan_copies(now)
        if not self._copies:
            self._copy_at = math.inf

    def _plan_copies(self, now: float) -> None:
        """Schedule the next copy: first one to each endpoint, then further ones."""
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
        """Send the latest initiation again with the cookie, to the source of the cookie.

        Raises:
            NotAuthentic: the reply does not answer this initiation.
            Refused: this attempt has tried that cookie, or ``MAX_COOKIES``.
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
        """Keep a reply in a uniform random sample, still encrypted (Vitter's algorithm R)."""
        self._excess += 1
        if len(self._sample) < _SAMPLE:
            self._sample.append((reply, self._mac1, source))
            return
        place = self._services.rng.randrange(self._excess)
        if place < _SAMPLE:
            self._sample[place] = (reply, self._mac1, source)

    def _sampled_cookies(self) -> set[tuple[Endpoint, bytes]]:
        """Decrypt the sample of the last attempt, whose cookies are valid for this attempt too."""
        sample, self._sample = self._sample, []
        cookies = set()
        for reply, mac1, source in sample:
            with contextlib.suppress(NotAuthentic):
                cookies.add((source, open_cookie(reply, self._receiver, mac1)))
        return cookies

    def probed(self, token: bytes) -> None:
        """Process an authentic echo. If it echoes ``probe``, the peer is there."""
        if hmac.compare_digest(token, self.probe):
            self.peer_is_there = True

    def is_answer(self, response: Response) -> bool:
        """Tell whether a response answers the latest initiation, at the cost of one hash."""
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
        """Release the numbers of the latest attempt, so that no response to it is accepted."""
        self._copies, self._copy_at = [], math.inf
        if self._sent is not None:
            self._services.numbers.release_spi(self._sent.inbound_spi)
            self.finish()

    def finish(self) -> None:
        """Release the index of the latest attempt. Its SPI is kept, because a pair uses it."""
        if self._sent is not None:
            self._services.numbers.release_index(self._sent.index)
            self._sent = None
