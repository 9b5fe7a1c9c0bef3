"""An iterative Kademlia lookup over disjoint paths, without any I/O.

A lookup asks the contacts nearest to the target for nearer ones, ``alpha`` at a time, until the k
nearest nodes that are on line have answered. Each query has a timeout. A late query no longer
counts as in flight, and the lookup does not wait for it once k other nodes have answered.
Otherwise each departed node would cost a path all attempts (``overlay sim accept E10``).

Only one path asks a node, and the contacts in its answer are used only on that path. So malicious
nodes on one path cannot influence another (S/Kademlia, Baumgart and Mies 2007). If there are fewer
contacts at the start than paths, some paths would have no candidate. Such a path, and no other,
gets a share of the next answer. Hops, queries and time are bounded, so that a node which invents
ever nearer ids cannot keep a lookup running.

Other nodes tell the endpoint of a node, so it may be false. If a node does not answer at one
endpoint, any path that knows another endpoint for it asks there. Otherwise one malicious node
could hide honest nodes from all paths. An endpoint is asked at most once for a node. Nodes without
an answer are never returned. Each path has separate limits per subnet, so that a malicious node
on another path cannot use them up.
"""

from __future__ import annotations

import enum
import heapq
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import cycle
from typing import Final, NamedTuple, Protocol

from overlay.addresses import NodeId
from overlay.dht.admission import source_group
from overlay.dht.events import DescriptorFound
from overlay.dht.messages import Contact, Contacts, FindNode, Reply, Request
from overlay.dht.routing import distance
from overlay.dht.settings import DhtSettings

__all__ = ["CANDIDATES_PER_K", "MAX_CLAIMS", "IterativeQuery", "Lookup", "Query"]

MAX_CLAIMS: Final = 3
"""Number of endpoints that a path remembers for one node."""

CANDIDATES_PER_K: Final = 8
"""Number of candidates that a path remembers besides those that were asked, in units of k."""


class Query(NamedTuple):
    """One request that a walk wants to send to one contact."""

    contact: Contact
    request: Request


class IterativeQuery(Protocol):
    """The interface of lookups and crawls: they return queries and receive the answers."""

    def queries(self, now: float) -> list[Query]:
        """Return the queries to send now. Each one gets exactly one answered() or failed()."""
        ...

    def answered(self, query: Query, reply: Reply, now: float) -> Sequence[DescriptorFound]:
        """Process the verified reply to a query; return the descriptors that it contained."""
        ...

    def failed(self, query: Query) -> None:
        """Process that a query got no answer."""
        ...

    def slow(self, query: Query) -> None:
        """Process that the first attempt of a query got no answer and the second was sent."""
        ...

    def finished(self, now: float) -> bool:
        """Tell whether there is nothing to ask and no answer to wait for."""
        ...

    def next_deadline(self) -> float:
        """Return when the time budget ends."""
        ...


class _State(enum.Enum):
    ASKED = "asked"
    SLOW = "slow"
    ANSWERED = "answered"
    FAILED = "failed"


class _Candidate:
    """A node that a path may ask: its claimed endpoints, oldest first, and its distance in hops."""

    __slots__ = ("claims", "hops", "node_id", "used")

    def __init__(self, contact: Contact, hops: int) -> None:
        self.node_id = contact.node_id
        self.claims = [contact]
        self.used = 0
        """How many claims need not be looked at again."""
        self.hops = hops


class _Path:
    """One of the disjoint paths: its candidates, nearest first, and the nodes that it asked.

    The first ``passed`` entries of ``order`` have nothing left to ask. Of these nodes, ``living``
    have answered or are being asked.
    """

    __slots__ = ("asking", "candidates", "full", "living", "order", "passed", "subnets")

    def __init__(self) -> None:
        self.candidates: dict[NodeId, _Candidate] = {}
        self.order: list[tuple[int, _Candidate]] = []
        self.subnets: Counter[bytes] = Counter()
        self.full: set[bytes] = set()
        """The subnets that have reached their limit; usually there are none."""
        self.asking = 0
        self.passed = self.living = 0

    def look_again(self) -> None:
        """Start again with the nearest candidate, because a passed one has a new endpoint."""
        self.passed = self.living = 0


class _LookupRequest:
    """One request: the path that made it, and its state."""

    __slots__ = ("path", "state")

    def __init__(self, path: _Path) -> None:
        self.path = path
        self.state = _State.ASKED


class Lookup:
    """Find the k nodes nearest to ``target``.

    Args:
        target: the id to search.
        own_id: the id of this node, which is never asked and never returned.
        start: contacts to begin with, nearest first, which are distributed among the paths.
        settings: k, alpha, the number of paths, and the limits.
        now: start of the time limit.

    Attributes:
        paths: the disjoint paths.
        asks: each request, by the contact that was asked.
        latest: the last request to each node.
    """

    def __init__(
        self,
        target: NodeId,
        own_id: NodeId,
        start: Iterable[Contact],
        settings: DhtSettings,
        now: float,
    ) -> None:
        self.target = target
        self._number = int.from_bytes(target, "big")
        self._request = FindNode(target)
        self._own_id = own_id
        self._settings = settings
        self._deadline = now + settings.lookup_time_s
        self.paths = [_Path() for _ in range(settings.disjoint_paths)]
        self.asks: dict[Contact, _LookupRequest] = {}
        self.latest: dict[NodeId, _LookupRequest] = {}
        self._contacts: dict[NodeId, Contact] = {}
        self._in_flight = 0
        self._late = 0
        for index, contact in enumerate(start):
            self._add(self.paths[index % len(self.paths)], contact, hops=0)

    def queries(self, now: float) -> list[Query]:
        """Return the next FIND_NODE requests, from each path in turn."""
        chosen: list[Query] = []
        if now >= self._deadline:
            return chosen
        found = True
        while found and self._may_ask():
            found = False
            for path in sorted(self.paths, key=_requests_under_way):
                contact = self._next(path) if self._may_ask() else None
                if contact is not None:
                    self._ask(path, contact)
                    chosen.append(Query(contact, self._request))
                    found = True
        return chosen

    def answered(self, query: Query, reply: Reply, now: float) -> tuple[()]:  # noqa: ARG002 - crawls need it
        """Add the contacts of an answer to the candidates of the path that asked."""
        node_id = query.contact.node_id
        path = self._settle(query.contact, _State.ANSWERED)
        self._contacts[node_id] = query.contact
        if not isinstance(reply, Contacts):
            return ()
        hops = path.candidates[node_id].hops + 1
        if hops <= self._settings.lookup_max_hops:
            takers = cycle([path, *[other for other in self.paths if not other.candidates]])
            for taker, contact in zip(takers, reply.contacts[: self._settings.k], strict=False):
                known = taker.candidates.get(contact.node_id)  # most of them are by now
                if known is None:
                    self._add(taker, contact, hops)
                elif contact not in known.claims and len(known.claims) < MAX_CLAIMS:
                    known.claims.append(contact)
                    taker.look_again()
        return ()

    def slow(self, query: Query) -> None:
        """Continue without a node that is late, because most late nodes have left.

        If the node answers while the lookup still runs, its answer counts.
        """
        if self.asks[query.contact].state is _State.ASKED:
            self._settle(query.contact, _State.SLOW)
            self._late += 1

    def failed(self, query: Query) -> None:
        """Do not ask the node at that endpoint again."""
        self._settle(query.contact, _State.FAILED)

    def finished(self, now: float) -> bool:
        """Tell whether the k nearest nodes answered on every path, or a limit is reached."""
        if now >= self._deadline:
            return True
        if self._in_flight:
            return False
        if self._within_budget() and any(self._next(path) is not None for path in self.paths):
            return False
        return not self._late or len(self._contacts) >= self._settings.k

    def next_deadline(self) -> float:
        """Return the end of the time limit."""
        return self._deadline

    def closest(self) -> list[Contact]:
        """Return the up to k nearest nodes that answered, nearest first."""
        return heapq.nsmallest(
            self._settings.k,
            self._contacts.values(),
            key=lambda contact: distance(contact.node_id, self.target),
        )

    def within(self, reach: int) -> list[Contact]:
        """Return the nodes within ``reach`` of the target that answered, nearest first."""
        return sorted(
            (c for c in self._contacts.values() if distance(c.node_id, self.target) <= reach),
            key=lambda contact: distance(contact.node_id, self.target),
        )

    @property
    def asked(self) -> int:
        """Number of requests."""
        return len(self.asks)

    def _add(self, path: _Path, contact: Contact, hops: int) -> None:
        node_id = contact.node_id
        if node_id == self._own_id or node_id in path.candidates:
            return
        path.candidates[node_id] = candidate = _Candidate(contact, hops)
        place = (int.from_bytes(node_id, "big") ^ self._number, candidate)
        index = bisect_left(path.order, place)
        path.order.insert(index, place)
        if index < path.passed:
            path.look_again()
        # Asked nodes stay, so they must not count for the limit of the others.
        if len(path.order) > CANDIDATES_PER_K * self._settings.k + len(self.latest):
            self._forget_farthest(path)

    def _forget_farthest(self, path: _Path) -> None:
        """Remove the farthest candidates above the limit; nodes that were asked stay."""
        for index in range(len(path.order) - 1, -1, -1):
            node_id = path.order[index][1].node_id
            if node_id not in self.latest:
                del path.order[index]
                del path.candidates[node_id]
                if index < path.passed:
                    path.look_again()
                return

    def _next(self, path: _Path) -> Contact | None:
        """Return the nearest candidate that was not asked, if it is among the k nearest."""
        latest, order, wanted = self.latest, path.order, self._settings.k
        while path.living < wanted and path.passed < len(order):
            candidate = order[path.passed][1]
            ask = latest.get(candidate.node_id)
            if ask is None or ask.state is _State.FAILED or ask.state is _State.SLOW:
                if candidate.used < len(candidate.claims):
                    contact = self._unused(path, candidate)
                    if contact is not None:
                        return contact
            else:
                path.living += 1
            path.passed += 1
        return None

    def _unused(self, path: _Path, candidate: _Candidate) -> Contact | None:
        """Return an endpoint of a candidate that was not asked, if its subnet has a free place."""
        for contact in candidate.claims[candidate.used :]:
            if contact not in self.asks and not (path.full and self._subnet(contact) in path.full):
                return contact
            candidate.used += 1
        return None

    def _subnet(self, contact: Contact) -> bytes:
        limit_private = self._settings.limit_private_prefixes
        return source_group(contact.endpoint, limit_private=limit_private)

    def _ask(self, path: _Path, contact: Contact) -> None:
        if contact.node_id in self.latest or any(each.full for each in self.paths):
            self._look_again()  # some path may have passed it as one that cannot be asked
        self.asks[contact] = self.latest[contact.node_id] = _LookupRequest(path)
        subnet = self._subnet(contact)
        path.subnets[subnet] += 1
        if path.subnets[subnet] >= self._settings.table_prefix_limit:
            path.full.add(subnet)
        self._in_flight += 1
        path.asking += 1

    def _settle(self, contact: Contact, state: _State) -> _Path:
        ask = self.asks[contact]
        if ask.state is _State.SLOW:
            self._late -= 1
        else:
            ask.path.asking -= 1
            self._in_flight -= 1
        if ask.state is not _State.ASKED or state is not _State.ANSWERED:
            self._look_again()
        ask.state = state
        if state is _State.ANSWERED:
            self.latest[contact.node_id] = ask
        return ask.path

    def _look_again(self) -> None:
        for path in self.paths:
            path.look_again()

    def _within_budget(self) -> bool:
        return len(self.asks) < self._settings.lookup_max_queries

    def _may_ask(self) -> bool:
        return self._in_flight < self._settings.alpha and self._within_budget()


def _requests_under_way(path: _Path) -> int:
    return path.asking
