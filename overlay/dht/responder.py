"""Answer requests of other nodes: cheap checks first, signatures last.

::

    request ─▶ source acceptable? ─▶ cookie valid? ─▶ for us? ─▶ rate? ─▶ signature? ─▶ answer
                     │                  │ no            │          │          │
                   drop        challenge (45 bytes)    drop       drop       drop

Until the sender has returned a valid cookie, only the challenge is sent. It is smaller than any
request, so an address never receives more bytes than were sent from it.
"""

from __future__ import annotations

import math
from collections import Counter
from random import Random
from typing import Final, NamedTuple, Protocol

from overlay.addresses import Endpoint, NodeId, version_of
from overlay.dht.admission import Cookies, SourceLimiter, budget_groups, source_group
from overlay.dht.descriptor import MixDescriptor
from overlay.dht.envelope import BareRequest, Envelopes, UnverifiedRequest
from overlay.dht.events import DescriptorRenewed, DhtCount, NodeLeft
from overlay.dht.help_messages import (
    HelpReply,
    HelpRequest,
    Meet,
    ProbeProgress,
    ProbeState,
    SendProbe,
    WantProbe,
)
from overlay.dht.messages import (
    Contact,
    FindNode,
    FindRecord,
    Leave,
    Left,
    Ping,
    Pong,
    Record,
    Reply,
    Request,
    Stored,
    contacts_that_fit,
)
from overlay.dht.messages import Store as StoreRequest
from overlay.dht.reach import KnownEndpoints, Reach, towards
from overlay.dht.routing import Table, distance
from overlay.dht.settings import DhtSettings
from overlay.dht.storage import RecordStore
from overlay.errors import LimitReached, NotAuthentic, PeerError
from overlay.identity import node_id_of
from overlay.reply_budget import ReplyBudget
from overlay.sensitive import SecretBytes
from overlay.work_budget import Work, WorkBudget

__all__ = ["STORE_SLACK", "Mistaken", "Proved", "RequestOutcome", "RequestResponder"]

_SECRET_BYTES: Final = 32

STORE_SLACK: Final = 3
"""A node refuses a record if it knows 3 k nodes that are nearer to the record than itself. The
record's region has up to 2 k nodes. An attacker may add k nodes around it, and the record is stored
in the whole region as a defence."""


class Helper(Protocol):
    """The help for other nodes that is no part of the DHT (``overlay.dht.reachability``)."""

    def arrived(self, request: UnverifiedRequest, source: Endpoint, now: float) -> bool:
        """Take a request if it is a probe of this node's tests; tell whether it was one."""
        ...

    def help(self, request: HelpRequest, asker: Contact, now: float) -> HelpReply:
        """Answer a request for help."""
        ...


class _NoHelper:
    """Refuses to help."""

    def arrived(self, *_: object) -> bool:
        return False

    def help(self, *_: object) -> HelpReply:
        return ProbeState(ProbeProgress.REFUSED)


class Proved(NamedTuple):
    """A node has proved its key and its endpoint. ``by_ping``: by a PING only."""

    contact: Contact
    by_ping: bool


class Mistaken(NamedTuple):
    """A node has asked at this node's address for another node."""

    source: Endpoint


Learned = Proved | Mistaken | NodeLeft | DescriptorRenewed


class RequestOutcome(NamedTuple):
    """The datagram to send back, if any, and what the request has shown.

    The owner acts on ``learned`` in its order, and sends the datagram after that.
    """

    datagram: bytes | None
    learned: tuple[Learned, ...] = ()


_NOTHING: Final = RequestOutcome(None)


class RequestResponder:
    """Answers the requests of others out of the routing table and the store.

    It changes only the store and its own limits. What a request has shown about other nodes is
    returned with the answer. ``known_endpoints`` returns the endpoints of a node's descriptor.
    ``helper`` answers requests about reachability and takes the probes of this node's own tests.
    """

    def __init__(
        self,
        own_id: NodeId,
        envelopes: Envelopes,
        settings: DhtSettings,
        rng: Random,
        *,
        table: Table,
        store: RecordStore,
        counts: Counter[DhtCount],
        reach: Reach,
        known_endpoints: KnownEndpoints = lambda _: (),
        budget: WorkBudget | None = None,
        helper: Helper | None = None,
    ) -> None:
        self._own_id = own_id
        self._envelopes = envelopes
        self._settings = settings
        self._table = table
        self._store = store
        self._counts = counts
        self._reach = reach
        self._known_endpoints = known_endpoints
        self._cookies = Cookies(SecretBytes(rng.randbytes(_SECRET_BYTES)))
        self._budget = budget or WorkBudget(math.inf)
        self._limiter = SourceLimiter(settings.requests_per_s, settings.request_burst)
        self._challenges = ReplyBudget(settings.challenges_per_s)
        self._helper = helper or _NoHelper()
        self.own_descriptor: MixDescriptor | None = None

    def has_no_challenge_left(self, now: float) -> bool:
        """Tell whether no challenge is left, so that requests without a cookie get no answer."""
        return self._challenges.is_exhausted(now)

    def answer(
        self, request: UnverifiedRequest | BareRequest, source: Endpoint, now: float
    ) -> RequestOutcome:
        """Return the answer to ``source``, and what the request has shown."""
        if isinstance(request, BareRequest):  # never a probe, which has something like a cookie
            sender = node_id_of(request.identity_key)
            return RequestOutcome(self._challenge(request.request_id, sender, source, now))
        if self._helper.arrived(request, source, now):
            return _NOTHING
        if not self._cookies.valid(request.cookie, source, request.sender, now):
            return RequestOutcome(self._challenge(request.request_id, request.sender, source, now))
        if not self._is_for_us(request):
            self._counts[DhtCount.WRONG_RESPONDER] += 1
            if request.responder not in (None, self._own_id) and request.sender != self._own_id:
                return RequestOutcome(None, (Mistaken(source),))
            return _NOTHING
        group = source_group(source, limit_private=self._settings.limit_private_prefixes)
        if not self._limiter.allow(group, now):
            self._counts[DhtCount.RATE_LIMITED] += 1
            return _NOTHING
        if not self._affords(request, source, now):
            self._counts[DhtCount.RATE_LIMITED] += 1
            return _NOTHING
        try:
            body = request.verify(self._envelopes.network_id)
        except NotAuthentic:
            self._counts[DhtCount.NOT_AUTHENTIC] += 1
            return _NOTHING
        contact = Contact(request.sender, source, request.identity_key)
        reply, learned = self._reply(body, contact, group, now)
        return RequestOutcome(self._envelopes.reply(reply, request), learned)

    def _challenge(
        self, request_id: bytes, sender: NodeId, source: Endpoint, now: float
    ) -> bytes | None:
        """Return a challenge to prove the source address, if its prefix has one left."""
        if not self._challenges.take(source.packed, now):
            self._counts[DhtCount.RATE_LIMITED] += 1
            return None
        self._counts[DhtCount.CHALLENGED] += 1
        return self._envelopes.challenge(request_id, self._cookies.issue(source, sender, now))

    def _affords(self, request: UnverifiedRequest, source: Endpoint, now: float) -> bool:
        """Take the cost of a request's signatures from the work budget, if there is one."""
        groups = budget_groups(source, limit_private=self._settings.limit_private_prefixes)
        # A record has a signature of its own.
        has_record = isinstance(request.request, StoreRequest | WantProbe | SendProbe)
        signatures = 2 if has_record else 1
        return all(self._budget.spend(Work.SIGNATURE, groups, now) for _ in range(signatures))

    def _is_for_us(self, request: UnverifiedRequest) -> bool:
        """Check responder id and address, so that a node cannot forward requests of others to us.

        The id may be missing only in a PING, because a greeting of a bootstrap peer has none.
        """
        if request.sender == self._own_id:
            return False
        if request.responder is None and not isinstance(request.request, Ping):
            return False
        if request.responder is not None and request.responder != self._own_id:
            return False
        own = self._reach.own
        return not own or request.sent_to in own

    def _reply(
        self, request: Request, contact: Contact, group: bytes, now: float
    ) -> tuple[Reply, tuple[Learned, ...]]:
        learned: tuple[Learned, ...] = (Proved(contact, by_ping=isinstance(request, Ping)),)
        match request:
            case Ping():
                return Pong(int(now)), learned
            case FindNode(target):
                return self._contacts(target, contact), learned
            case FindRecord(key):
                record = self._record(key, now)
                found = Record(record) if record is not None else self._contacts(key, contact)
                return found, learned
            case StoreRequest(record):
                accepted, renewed = self._stored(record, contact, group, now)
                return Stored(accepted), (*learned, *renewed)
            case WantProbe() | SendProbe() | Meet():
                return self._helper.help(request, contact, now), learned
            case Leave(sequence):
                # A node that leaves is not added to the contacts, although it has proved itself.
                is_news = self._store.leave(contact.node_id, sequence, group, now)
                return Left(), (NodeLeft(contact.node_id),) if is_news else ()

    def _contacts(self, target: NodeId, asker: Contact) -> Reply:
        closest = self._table.closest(target, self._settings.k, exclude=asker.node_id, alive=True)
        versions = frozenset((version_of(asker.endpoint),))
        told = [towards(versions, each, self._known_endpoints) for each in closest]
        return contacts_that_fit(told, self._settings.k)

    def _record(self, key: NodeId, now: float) -> bytes | None:
        own = self.own_descriptor
        if key == self._own_id:
            return own.encoded if own is not None and now < own.expires else None
        return self._store.get(key, now)

    def _stored(
        self, record: bytes, contact: Contact, group: bytes, now: float
    ) -> tuple[bool, tuple[DescriptorRenewed, ...]]:
        """Store the sender's own descriptor if its id is near ours; others are refused."""
        key = contact.node_id
        k = self._settings.k
        if self._is_among_nearest(STORE_SLACK * k, key):
            try:
                responsible = self._is_among_nearest(k, key)
                self._store.put(key, record, group, now, responsible=responsible)
            except (PeerError, LimitReached):
                pass
            else:
                kept = self._store.find(key, now)
                return True, (DescriptorRenewed(kept),) if kept is not None else ()
        self._counts[DhtCount.REFUSED_RECORD] += 1
        return False, ()

    def _is_among_nearest(self, count: int, key: NodeId) -> bool:
        """Tell whether this node knows fewer than ``count`` contacts nearer to ``key``."""
        nearest = self._table.closest(key, count, exclude=key)
        if len(nearest) < count:
            return True
        return distance(self._own_id, key) < distance(nearest[-1].node_id, key)
