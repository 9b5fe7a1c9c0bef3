"""Test whether other nodes reach the endpoints that this node publishes.

Each endpoint is tested in rounds::

    UNTESTED ──a probe arrives──> REACHABLE      next round after ``interval_s``
        │                            │
        └──two rounds in a row fail──┴──> UNREACHABLE ──a probe arrives──> REACHABLE
                                             └─ next round after 60 s, then after twice as long

A round asks three nodes of different prefixes. Each has a third node send the probe
(``overlay.dht.probe_help``). A round fails if all three answer that their probe was sent and no
probe arrives. So a few hostile nodes cannot make a node seem unreachable. All six asked nodes, or
the third nodes that they choose, would have to be hostile. Other outcomes (too few nodes, refusals,
no answer, overload) show nothing, and the state stays as it is.

Reasons: docs/decisions/0055.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Final

from overlay.addresses import Endpoint, NodeId, version_of
from overlay.dht.admission import prefix_of
from overlay.dht.calls import Calls, VerifiedReply
from overlay.dht.contacted import Contacted
from overlay.dht.envelope import UnverifiedRequest
from overlay.dht.events import DhtCount, EventQueue, ReachChanged, Standing
from overlay.dht.help_messages import PROBE_NONCE_BYTES, ProbeProgress, ProbeState, WantProbe
from overlay.dht.messages import Contact, Ping
from overlay.dht.probe_help import Contacts
from overlay.errors import NotAuthentic

__all__ = ["ASKED", "ReachTests"]

ASKED: Final = 3
"""Number of asked nodes, of different prefixes; a round fails if all their probes are missing."""

_FAILED_ROUNDS: Final = 2
"""Number of rounds that must fail in a row. At a loss of 30 %, all six probes of two copies each
are lost with a probability of 5e-7."""

_FIRST_S: Final = 2.0
"""Wait before the first test, so that the node has joined and some contacts have answered."""

_AGAIN_S: Final = 3.0
"""Wait between a failed round and the one that confirms it."""

_INCONCLUSIVE_S: Final = 5.0
"""The first pause after a round that showed nothing; it doubles up to the interval."""

_BACKOFF_S: Final = 60.0
"""The first pause of an unreachable endpoint; it doubles up to the interval."""

_POLL_S: Final = 0.5
_MAX_POLLS: Final = 8
"""Number of requests for the state of a probe to one node, which take four seconds."""

_GRACE_S: Final = 2.0
"""Time for a probe to arrive after the asked node says that it was sent."""


@dataclass(slots=True)
class _AskedNode:
    """One asked node; ``due`` is when to ask again or, after ``sent``, the end of the wait."""

    contact: Contact
    nonce: bytes
    due: float = math.inf
    polls: int = 0
    sent: bool = False
    silent: bool = False
    void: bool = False


@dataclass(slots=True)
class _Round:
    candidates: list[Contact]
    overloaded: int
    asks: list[_AskedNode] = field(default_factory=list)

    def finished(self) -> bool:
        return all(ask.silent or ask.void for ask in self.asks)

    def silent(self) -> int:
        return sum(ask.silent for ask in self.asks)


@dataclass(slots=True)
class _Test:
    endpoint: Endpoint
    due: float
    pause_s: float
    standing: Standing = Standing.UNTESTED
    failures: int = 0
    round: _Round | None = None
    asked: set[bytes] = field(default_factory=set)
    """Prefixes of the last round, which the next one avoids if it can."""


class ReachTests:
    """The tests of this node's endpoints; there are none until :meth:`follow` names endpoints.

    Args:
        own_id: id of this node.
        network_id: name of the network, which signatures of probes cover.
        calls: sends requests.
        rng: draws nonces, and the times of rounds.
        contacts: returns nodes to ask.
        contacted: records to which endpoints this node sends, while an endpoint is tested.
        events: receives changes of an endpoint's state.
        counts: has the number of requests that this node dropped because it had no time.
    """

    def __init__(
        self,
        own_id: NodeId,
        network_id: str,
        calls: Calls,
        rng: Random,
        *,
        contacts: Contacts,
        contacted: Contacted,
        events: EventQueue,
        counts: Counter[DhtCount],
    ) -> None:
        self._own_id = own_id
        self._network_id = network_id
        self._calls = calls
        self._rng = rng
        self._contacts = contacts
        self._contacted = contacted
        self._events = events
        self._counts = counts
        self._interval_s = 0.0
        self._sign: Callable[[float], bytes] = lambda _: b""
        self._tests: dict[Endpoint, _Test] = {}

    def follow(
        self,
        endpoints: Sequence[Endpoint],
        sign: Callable[[float], bytes],
        *,
        interval_s: float,
        now: float,
    ) -> None:
        """Test these endpoints from now on; the first test begins soon.

        An endpoint that was tested before keeps its state until a new round shows another one.

        Args:
            endpoints: the endpoints that this node publishes, at most four.
            sign: returns a descriptor of this node that names them, signed at the given time.
            interval_s: seconds between two tests of an endpoint that is reachable.
            now: Unix seconds.
        """
        self._interval_s, self._sign = interval_s, sign
        tests = self._tests
        self._tests = {
            each: tests.get(each) or _Test(each, now, _INCONCLUSIVE_S) for each in endpoints
        }
        self._contacted.active = bool(self._tests)
        for test in self._tests.values():
            test.round, test.failures = None, 0
            test.due = now + _FIRST_S
            test.pause_s = min(_INCONCLUSIVE_S, interval_s)

    def stop(self) -> None:
        """Stop all tests."""
        self._tests = {}
        self._contacted.active = False

    def standings(self) -> dict[Endpoint, Standing]:
        """Return the result of the tests for each endpoint."""
        return {endpoint: test.standing for endpoint, test in self._tests.items()}

    def sent_to(self, endpoint: Endpoint, now: float) -> None:
        """Note that this node sends to an endpoint in another way than by its outbox."""
        self._contacted.note(endpoint, now)

    def arrived(self, request: UnverifiedRequest, source: Endpoint, now: float) -> bool:
        """Process a request if it is a probe of a test here; return whether it was one.

        A probe is not answered. An answer would let later datagrams of its source pass a packet
        filter.
        """
        if not isinstance(request.request, Ping):
            return False
        for test in self._tests.values():
            for ask in test.round.asks if test.round is not None else ():
                if ask.nonce == request.request_id:
                    self._probed(test, ask, request, source, now)
                    return True
        return False

    def _probed(
        self, test: _Test, ask: _AskedNode, request: UnverifiedRequest, source: Endpoint, now: float
    ) -> None:
        if source.packed == ask.contact.endpoint.packed:
            return  # a filter lets its datagrams pass, because this node sent to it
        if self._contacted.holds_endpoint(source, now) or request.responder != self._own_id:
            return
        try:
            request.verify(self._network_id)
        except NotAuthentic:
            return
        if self._contacted.holds_address(source, now) and not self._knows_few_others(test, now):
            # A filter that compares only addresses lets this pass, so another node is asked.
            self._give_up(test, ask, now)
        else:
            self._succeeded(test, now)

    def _knows_few_others(self, test: _Test, now: float) -> bool:
        """Tell whether this node has recently sent to most of its contacts, as in a small overlay.

        Then no contact is left from which a probe would be a valid test.
        """
        known = self._contacts(version_of(test.endpoint))
        recent = sum(self._contacted.holds_address(each.endpoint, now) for each in known)
        return 2 * recent >= len(known)

    def next_deadline(self) -> float:
        """Return when :meth:`handle_deadline` is due."""
        return min(map(_due, self._tests.values()), default=math.inf)

    def handle_deadline(self, now: float) -> None:
        """Begin rounds, repeat requests and end waits that are due."""
        for test in self._tests.values():
            if _due(test) > now:
                continue
            if test.round is None:
                self._begin(test, now)
            else:
                self._go_on(test, test.round, now)

    def _begin(self, test: _Test, now: float) -> None:
        own = {prefix_of(each) for each in self._tests}
        by_prefix: dict[bytes, Contact] = {}
        for contact in self._contacts(version_of(test.endpoint)):
            prefix = prefix_of(contact.endpoint)
            if prefix not in own:
                by_prefix.setdefault(prefix, contact)
        prefixes = sorted(by_prefix, key=test.asked.__contains__)
        if len(prefixes) < ASKED:
            self._inconclusive(test, now)
            return
        test.asked = set()
        test.round = _Round([by_prefix[each] for each in prefixes], self._dropped())
        for _ in range(ASKED):
            self._ask_next(test, test.round, now)

    def _ask_next(self, test: _Test, round_: _Round, now: float) -> None:
        if not round_.candidates:
            return
        contact = round_.candidates.pop(0)
        test.asked.add(prefix_of(contact.endpoint))
        ask = _AskedNode(contact, self._rng.randbytes(PROBE_NONCE_BYTES))
        round_.asks.append(ask)
        self._send(test, ask, now)

    def _send(self, test: _Test, ask: _AskedNode, now: float) -> None:
        ask.due = math.inf
        ask.polls += 1
        request = WantProbe(self._sign(now), test.endpoint.port, ask.nonce)
        answered = partial(self._answered, test, ask)
        self._calls.start(request, ask.contact.endpoint, ask.contact.node_id, now, answered)

    def _answered(
        self, test: _Test, ask: _AskedNode, answer: VerifiedReply | None, now: float
    ) -> None:
        if test.round is None or ask not in test.round.asks or ask.void:
            return  # the round is over
        progress = ProbeProgress.REFUSED
        if answer is not None and isinstance(answer.reply, ProbeState):
            progress = answer.reply.progress
        if progress is ProbeProgress.SENT:
            ask.sent, ask.due = True, now + _GRACE_S
        elif progress is ProbeProgress.PENDING and ask.polls < _MAX_POLLS:
            ask.due = now + _POLL_S
        else:
            self._give_up(test, ask, now)

    def _give_up(self, test: _Test, ask: _AskedNode, now: float) -> None:
        """Stop waiting for an asked node; ask another one, or end the round."""
        ask.void, ask.due = True, math.inf
        if test.round is not None:
            self._ask_next(test, test.round, now)
            self._judge(test, test.round, now)

    def _go_on(self, test: _Test, round_: _Round, now: float) -> None:
        for ask in list(round_.asks):
            if ask.due > now:
                continue
            if ask.sent:
                ask.silent, ask.due = True, math.inf
            else:
                self._send(test, ask, now)
        self._judge(test, round_, now)

    def _judge(self, test: _Test, round_: _Round, now: float) -> None:
        """End a round if the result of each asked node is known."""
        if not round_.finished():
            return
        if round_.silent() < ASKED or self._dropped() != round_.overloaded:
            self._inconclusive(test, now)
        else:
            self._failed(test, now)

    def _inconclusive(self, test: _Test, now: float) -> None:
        test.round = None
        self._pause(test, now)

    def _failed(self, test: _Test, now: float) -> None:
        test.round = None
        test.failures += 1
        if test.failures < _FAILED_ROUNDS:
            test.due = now + _AGAIN_S
            return
        if test.standing is not Standing.UNREACHABLE:
            test.pause_s = min(_BACKOFF_S, self._interval_s)
            self._stands(test, Standing.UNREACHABLE)
        self._pause(test, now)

    def _succeeded(self, test: _Test, now: float) -> None:
        test.round, test.failures = None, 0
        test.pause_s = self._interval_s
        self._stands(test, Standing.REACHABLE)
        self._pause(test, now)

    def _pause(self, test: _Test, now: float) -> None:
        # The pause is random, so that nodes that started together do not test together.
        test.due = now + test.pause_s * self._rng.uniform(0.8, 1.2)
        test.pause_s = min(2 * test.pause_s, self._interval_s)

    def _stands(self, test: _Test, standing: Standing) -> None:
        if test.standing is not standing:
            test.standing = standing
            self._events.append(ReachChanged(test.endpoint, standing))

    def _dropped(self) -> int:
        """Return the number of requests that this node dropped because it had no time."""
        return self._counts[DhtCount.RATE_LIMITED]


def _due(test: _Test) -> float:
    if test.round is None:
        return test.due
    return min((ask.due for ask in test.round.asks), default=math.inf)
