"""Help with the reachability tests of other nodes: forward requests for a probe, or send it.

::

    tested node ──WANT_PROBE──> asked node ──SEND_PROBE──> third node
        ^                                                       │
        └────────── PING from a port that is used once ─────────┘

The third node sends, because the tested node has sent to the asked one. So the NAT or packet filter
of the tested node lets packets from the asked node pass, sometimes from each port of its address.

An attacker cannot use this against other hosts. The asked node forwards a request only for the
address that the request came from, which a cookie has proved. The third node sends two small
datagrams to an endpoint that the tested node has signed. They have fewer bytes than it received.
Both nodes limit requests by prefix and in total.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Final

from overlay.addresses import Endpoint, NodeId, version_of
from overlay.dht.admission import SourceLimiter, prefix_of
from overlay.dht.calls import Calls, VerifiedReply
from overlay.dht.descriptor import MixDescriptor, UnverifiedDescriptor
from overlay.dht.envelope import COOKIE_BYTES, Envelopes
from overlay.dht.events import EventQueue, ProbeWanted
from overlay.dht.help_messages import ProbeProgress, ProbeState, SendProbe, WantProbe
from overlay.dht.messages import Contact, Ping
from overlay.dht.reach import Reach
from overlay.errors import PeerError

__all__ = ["MAX_KEPT", "Contacts", "ProbeHelp"]

Contacts = Callable[[int], list[Contact]]
"""Returns live contacts at endpoints of an IP version, in random order."""

_MAX_THIRDS: Final = 3
"""Number of third nodes that are asked, one after another, until one agrees."""

MAX_KEPT: Final = 512
_KEPT_S: Final = 60.0
"""Time for which a repeated request gets the state of the first one."""

_PREFIX_RATE_PER_S: Final = 1.0
_PREFIX_BURST: Final = 12
_TOTAL_RATE_PER_S: Final = 20.0
_TOTAL_BURST: Final = 60
"""Limits of accepted requests. A probe is two datagrams of 220 bytes, so at most 9 kB/s."""


@dataclass(slots=True)
class _Passed:
    """A request that this node has accepted, and the third nodes that it may still ask."""

    since: float
    progress: ProbeProgress
    thirds: Iterator[Contact] = field(default_factory=lambda: iter(()))


class ProbeHelp:
    """Answer WANT_PROBE and SEND_PROBE.

    Args:
        own_id: id of this node.
        envelopes: makes the probe.
        calls: sends requests to third nodes.
        contacts: returns third nodes to choose from.
        verified: returns the verified descriptor in a record of a node, or raises PeerError.
        sends_to: returns whether this node may and can send to an endpoint.
        reach: has the endpoints of this node.
        events: receives a probe that must be sent.
        rng: draws the bytes in place of the probe's cookie.
    """

    def __init__(
        self,
        own_id: NodeId,
        envelopes: Envelopes,
        calls: Calls,
        rng: Random,
        *,
        contacts: Contacts,
        verified: Callable[[bytes, NodeId, float], MixDescriptor],
        sends_to: Callable[[Endpoint], bool],
        reach: Reach,
        events: EventQueue,
    ) -> None:
        self._own_id = own_id
        self._envelopes = envelopes
        self._calls = calls
        self._rng = rng
        self._contacts = contacts
        self._verified = verified
        self._sends_to = sends_to
        self._reach = reach
        self._events = events
        self._passed: OrderedDict[tuple[NodeId, bytes], _Passed] = OrderedDict()
        self._limiter = SourceLimiter(_PREFIX_RATE_PER_S, _PREFIX_BURST)
        self._targets = SourceLimiter(_PREFIX_RATE_PER_S, _PREFIX_BURST)
        self._total = SourceLimiter(_TOTAL_RATE_PER_S, _TOTAL_BURST)

    def want(self, request: WantProbe, asker: Contact, now: float) -> ProbeState:
        """Have another node probe the sender's endpoint; return the state of the probe."""
        known = self._known(asker, request.nonce)
        if known is not None:
            return ProbeState(known.progress)
        target = Endpoint(asker.endpoint.host, request.port)
        names = self._names(request.record, asker.node_id, target, now)
        if not names or not self._affords(asker, now):
            return ProbeState(ProbeProgress.REFUSED)
        passed = self._keep(asker, request.nonce, ProbeProgress.PENDING, now)
        passed.thirds = iter(self._thirds(asker))
        self._pass_on(SendProbe(request.record, target, request.nonce), passed, now)
        return ProbeState(passed.progress)

    def send(self, request: SendProbe, asker: Contact, now: float) -> ProbeState:
        """Probe an endpoint of another node than the sender of the request."""
        if self._known(asker, request.nonce) is not None:
            return ProbeState(ProbeProgress.SENT)
        target = request.endpoint
        owner = self._owner(request.record)
        foreign = owner is not None and owner not in (asker.node_id, self._own_id)
        if owner is None or not foreign or not self._sends_to(target):
            return ProbeState(ProbeProgress.REFUSED)
        names = self._names(request.record, owner, target, now)
        if not names or not self._affords(asker, now, target):
            return ProbeState(ProbeProgress.REFUSED)
        self._keep(asker, request.nonce, ProbeProgress.SENT, now)
        probe = self._envelopes.request(
            Ping(),
            request_id=request.nonce,
            responder=owner,
            sent_to=target,
            # Random bytes in place of a cookie put the probe into a less full receive queue.
            cookie=self._rng.randbytes(COOKIE_BYTES),
        )
        self._events.append(ProbeWanted(probe, target))
        return ProbeState(ProbeProgress.SENT)

    def _pass_on(self, request: SendProbe, passed: _Passed, now: float) -> None:
        third = next(passed.thirds, None)
        if third is None:
            passed.progress = ProbeProgress.REFUSED
            return

        def answered(answer: VerifiedReply | None, now: float) -> None:
            sent = ProbeState(ProbeProgress.SENT)
            if answer is not None and answer.reply == sent:
                passed.progress = ProbeProgress.SENT
            else:
                self._pass_on(request, passed, now)

        self._calls.start(request, third.endpoint, third.node_id, now, answered)

    def _thirds(self, asker: Contact) -> list[Contact]:
        """Return nodes of other prefixes than those of the sender and of this node."""
        near = {prefix_of(asker.endpoint)} | {prefix_of(each) for each in self._reach.own}
        return [
            each
            for each in self._contacts(version_of(asker.endpoint))
            if prefix_of(each.endpoint) not in near and each.node_id != asker.node_id
        ][:_MAX_THIRDS]

    def _owner(self, record: bytes) -> NodeId | None:
        try:
            return UnverifiedDescriptor.parse(record).node_id
        except PeerError:
            return None

    def _names(self, record: bytes, owner: NodeId, target: Endpoint, now: float) -> bool:
        """Tell whether a node's signed record names an endpoint."""
        try:
            return target in self._verified(record, owner, now).endpoints
        except PeerError:
            return False

    def _affords(self, asker: Contact, now: float, target: Endpoint | None = None) -> bool:
        return (
            self._limiter.allow(prefix_of(asker.endpoint), now)
            and (target is None or self._targets.allow(prefix_of(target), now))
            and self._total.allow(b"", now)
        )

    def _known(self, asker: Contact, nonce: bytes) -> _Passed | None:
        return self._passed.get((asker.node_id, nonce))

    def _keep(self, asker: Contact, nonce: bytes, progress: ProbeProgress, now: float) -> _Passed:
        passed = self._passed[(asker.node_id, nonce)] = _Passed(now, progress)
        oldest = next(iter(self._passed.values()))
        while len(self._passed) > MAX_KEPT or now - oldest.since > _KEPT_S:
            self._passed.popitem(last=False)
            oldest = next(iter(self._passed.values()))
        return passed
