"""Requests in flight, from sending to the answer or the timeout.

::

    start ──datagram──▶ waiting ──reply that fits──▶ answered(reply)
                        │  ▲ │
             challenge  │  │ └─ deadline, attempts left: slow(), send again, wait twice as long
             with cookie└──┘ └─ deadline, none left ──▶ answered(None)

An answer counts only if it comes from the address that was asked, carries the request's
random id, and is signed, over the request's hash, by the node that was asked (any node, if
its id was not known: then the reply names it).
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Final, NamedTuple

from overlay.addresses import Endpoint, NodeId
from overlay.dht.admission import COOKIE_ROTATION_S
from overlay.dht.clock_watch import ClockWatch
from overlay.dht.envelope import REQUEST_ID_BYTES, Challenge, Envelopes, UnverifiedReply
from overlay.dht.events import DhtCount
from overlay.dht.messages import Contact, MessageKind, Pong, Reply, Request
from overlay.dht.outbox import DhtOutbox
from overlay.dht.round_trips import RoundTrips
from overlay.dht.settings import DhtSettings
from overlay.errors import PeerError

__all__ = ["MAX_CHALLENGES", "MAX_COOKIES", "Calls", "VerifiedReply"]

MAX_COOKIES: Final = 8192
MAX_CHALLENGES: Final = 2
_MAX_FORGERIES: Final = 3

_INSISTENT_ATTEMPTS: Final = 16
_INSISTENT_PAUSE_S: Final = 0.1
"""A node under a flood of requests without a cookie reads some tenth of them. So 16 of them, within
about the time that a silent node gets anyway, are probably enough."""

_ANSWERS: Final = {
    MessageKind.PING: {MessageKind.PONG},
    MessageKind.FIND_NODE: {MessageKind.CONTACTS},
    MessageKind.FIND_RECORD: {MessageKind.RECORD, MessageKind.CONTACTS},
    MessageKind.STORE: {MessageKind.STORED},
    MessageKind.LEAVE: {MessageKind.LEFT},
    MessageKind.WANT_PROBE: {MessageKind.PROBE_STATE},
    MessageKind.SEND_PROBE: {MessageKind.PROBE_STATE},
    MessageKind.MEET: {MessageKind.MET},
}


class VerifiedReply(NamedTuple):
    """A verified reply and the contact that proved to be at its endpoint."""

    contact: Contact
    reply: Reply


OnAnswer = Callable[[VerifiedReply | None, float], None]
"""Continues the work of the part that started a call: with the answer or None, and the time."""

OnSlow = Callable[[float], None]


@dataclass(slots=True)
class _Call:
    request: Request
    endpoint: Endpoint
    responder: NodeId | None
    request_id: bytes
    on_answer: OnAnswer
    on_slow: OnSlow | None = None
    insistent: bool = False
    datagram: bytes = b""
    attempts: int = 0
    challenges: int = 0
    forgeries: int = 0
    sent_at: float = 0.0
    ambiguous: bool = False
    """The same bytes were sent twice, so an answer does not tell how long it took."""
    deadline: float = field(default=math.inf)


class Calls:
    """All calls in flight, and the cookies that this node received from peers.

    Owned by the DHT core. Its lookups, crawls and periodic tasks bound how many calls they start.
    ``outbox`` takes datagrams to send. ``draw_id`` draws 12 bytes. ``clock_watch`` hears the times
    in answers to pings. Cookies are kept for 8,192 endpoints at most.
    """

    def __init__(
        self,
        envelopes: Envelopes,
        settings: DhtSettings,
        rng: Random,
        outbox: DhtOutbox,
        counts: Counter[DhtCount],
        draw_id: Callable[[], bytes] | None = None,
        clock_watch: ClockWatch | None = None,
    ) -> None:
        self._envelopes = envelopes
        self._settings = settings
        self._draw_id = draw_id or partial(rng.randbytes, REQUEST_ID_BYTES)
        self._outbox = outbox
        self._counts = counts
        self._clock_watch = clock_watch or ClockWatch()
        self._calls: dict[bytes, _Call] = {}
        self._deadlines: list[tuple[float, bytes]] = []
        self._cookies: OrderedDict[Endpoint, tuple[bytes, float]] = OrderedDict()
        self._round_trips = RoundTrips(settings)

    def __len__(self) -> int:
        """Return the number of calls in flight."""
        return len(self._calls)

    def cookies(self) -> int:
        """Return the number of endpoints whose cookie is kept, at most 8,192."""
        return len(self._cookies)

    def start(
        self,
        request: Request,
        endpoint: Endpoint,
        responder: NodeId | None,
        now: float,
        on_answer: OnAnswer,
        on_slow: OnSlow | None = None,
        *,
        insistent: bool = False,
    ) -> None:
        """Send a request; ``on_answer`` is called with the answer, or with None at the timeout.

        ``on_slow`` is called before that, once, if the first attempt stays without answer. An
        ``insistent`` request is repeated more often, because a new node knows only few nodes.
        """
        request_id = self._draw_id()
        call = _Call(request, endpoint, responder, request_id, on_answer, on_slow, insistent)
        self._calls[request_id] = call
        self._transmit(call, now)

    def cancel_all(self) -> None:
        """Forget every call without calling ``on_answer``."""
        self._calls.clear()
        self._deadlines.clear()

    def challenged(self, challenge: Challenge, source: Endpoint, now: float) -> None:
        """Repeat a request with the cookie that its responder demands."""
        call = self._calls.get(challenge.request_id)
        if call is None or call.endpoint != source or call.challenges >= MAX_CHALLENGES:
            self._counts[DhtCount.UNSOLICITED] += 1
            return
        self._measure(call, now)
        call.ambiguous = False  # the cookie changes the bytes of the request
        call.challenges += 1
        call.attempts -= 1  # the peer answers, so this attempt was not lost
        self._cookies.pop(source, None)
        self._cookies[source] = (challenge.cookie, now)
        self._forget_cookies(now)
        self._transmit(call, now)

    def replied(self, reply: UnverifiedReply, source: Endpoint, now: float) -> None:
        """Match a reply with its call and verify it; other replies are counted and dropped."""
        call = self._calls.get(reply.request_id)
        if call is None or call.endpoint != source or not _fits(call, reply):
            self._counts[DhtCount.UNSOLICITED] += 1
            return
        try:
            body = reply.verify(self._envelopes.network_id, call.datagram)
        except PeerError:
            self._forged(call, now)
            return
        del self._calls[call.request_id]
        self._measure(call, now)
        contact = Contact(reply.sender, source, reply.identity_key)
        if isinstance(body, Pong):
            self._clock_watch.heard(contact.node_id, body.time_s, now)
        call.on_answer(VerifiedReply(contact, body), now)

    def next_deadline(self) -> float:
        """Return the time of the next timeout."""
        deadlines = self._deadlines
        while deadlines:
            deadline, request_id = deadlines[0]
            call = self._calls.get(request_id)
            if call is not None and call.deadline == deadline:
                return deadline
            heapq.heappop(deadlines)
        return math.inf

    def handle_deadline(self, now: float) -> None:
        """Repeat requests that are due, and end those without further attempts."""
        while self.next_deadline() <= now:
            _, request_id = heapq.heappop(self._deadlines)
            call = self._calls[request_id]
            if call.attempts < self._attempts(call):
                call.ambiguous = True
                self._transmit(call, now)
                self._tell_slow(call, now)
            else:
                del self._calls[request_id]
                self._round_trips.lost(call.endpoint)
                self._counts[DhtCount.TIMED_OUT] += 1
                call.on_answer(None, now)

    def _attempts(self, call: _Call) -> int:
        usual = self._settings.rpc_attempts
        return max(usual, _INSISTENT_ATTEMPTS) if call.insistent else usual

    @staticmethod
    def _tell_slow(call: _Call, now: float) -> None:
        on_slow, call.on_slow = call.on_slow, None
        if on_slow is not None:
            on_slow(now)

    def _transmit(self, call: _Call, now: float) -> None:
        call.datagram = self._envelopes.request(
            call.request,
            request_id=call.request_id,
            responder=call.responder,
            sent_to=call.endpoint,
            cookie=self._cookie(call.endpoint, now),
        )
        patience = self._round_trips.patience(call.endpoint, call.attempts)
        if call.insistent and call.attempts:
            patience = min(patience, _INSISTENT_PAUSE_S)
        call.attempts += 1
        call.sent_at = now
        call.deadline = now + patience
        heapq.heappush(self._deadlines, (call.deadline, call.request_id))
        self._outbox.send(call.datagram, call.endpoint, now)

    def _measure(self, call: _Call, now: float) -> None:
        if not call.ambiguous:
            self._round_trips.measured(call.endpoint, now - call.sent_at)

    def _forget_cookies(self, now: float) -> None:
        """Remove expired cookies, and the oldest ones above the limit."""
        while self._cookies:
            _, since = next(iter(self._cookies.values()))
            if len(self._cookies) <= MAX_COOKIES and now - since < COOKIE_ROTATION_S:
                return
            self._cookies.popitem(last=False)

    def _cookie(self, endpoint: Endpoint, now: float) -> bytes:
        cookie, since = self._cookies.get(endpoint, (b"", now))
        return cookie if now - since < COOKIE_ROTATION_S else b""

    def _forged(self, call: _Call, now: float) -> None:
        """Count a reply that does not verify; a call that got several of them ends.

        Only nodes on the route see the id, so this bounds what an eavesdropper can cost.
        """
        self._counts[DhtCount.NOT_AUTHENTIC] += 1
        call.forgeries += 1
        if call.forgeries >= _MAX_FORGERIES:
            del self._calls[call.request_id]
            call.on_answer(None, now)


def _fits(call: _Call, reply: UnverifiedReply) -> bool:
    named_right = call.responder is None or reply.sender == call.responder
    return named_right and reply.kind in _ANSWERS[call.request.kind]
