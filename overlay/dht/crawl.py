"""A crawl of the whole overlay, which finds all nodes on line and the descriptors of all nodes.

Only crawls fill the Mix-nodes Topology Table. So the traffic of a node does not show which nodes
its circuits will use. A crawl sends three queries to every node that it learns about:

1. FIND_RECORD of the node's own id, for its descriptor;
2. FIND_NODE of the node's own id, for its near nodes;
3. FIND_NODE of the node's own id with a random leading bit flipped, for a sample of its far
   buckets, which connects distant parts of the key space.

After that, the crawl requests the descriptors of nodes that did not answer from the nodes nearest
to their ids, which store them until they expire. Several holders are asked, and the highest
sequence number counts, because a single holder may return an old descriptor or none. Ids without
an answer may be invented. So their holders are looked up one at a time, and no holder is asked
about more ids than it could be near to. Otherwise an attacker could direct a crawl at a victim. If
a subnet introduced too many ids without an answer, nodes that only this subnet names are not asked.

Reasons: docs/decisions/0008.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from overlay.addresses import NODE_ID_BYTES, Endpoint, NodeId
from overlay.dht.admission import source_group
from overlay.dht.descriptor import MixDescriptor
from overlay.dht.eclipse import nearest_numbers
from overlay.dht.events import DescriptorFound
from overlay.dht.introductions import Introductions
from overlay.dht.lookup import Query
from overlay.dht.messages import Contact, Contacts, FindNode, FindRecord, Record, Reply
from overlay.dht.routing import flipped
from overlay.dht.settings import DhtSettings
from overlay.errors import PeerError

__all__ = ["HOLDERS_ASKED", "QUESTIONS_PER_HOLDER", "Crawl"]

HOLDERS_ASKED: Final = 3
"""Holders to ask about a node that did not answer."""
_DOUBTFUL_HOLDERS: Final = 2
"""Holders to ask about a node in a region that looks eclipsed, in units of k."""
QUESTIONS_PER_HOLDER: Final = 4
"""Nodes without an answer that one holder is asked about, in units of k."""
_MAX_IDS_PER_ENDPOINT: Final = 3

Verify = Callable[[bytes, NodeId, float], MixDescriptor]
IsLeft = Callable[[MixDescriptor, float], bool]


@dataclass(slots=True)
class _Progress:
    """The remaining queries to one node, and whether it has answered."""

    contact: Contact
    introducers: list[bytes | None]
    """The subnets that named it before it was asked, the first of which answers for its being
    there; None: our own table."""
    answered: bool = False
    asked: bool = False
    shelved: bool = False
    """Whether it was skipped, because no subnet that named it was trusted any more."""


class Crawl:
    """One crawl.

    Args:
        own_id: the id of this node, which is never asked.
        start: contacts to begin with.
        settings: limits of nodes, of queries in flight, per subnet, and of time.
        verify: returns the descriptor of the requested node from a record that arrived at the
            time given, or raises PeerError.
        is_left: tells whether a node has left since it signed a descriptor.
        doubtful: tells whether an adversary may control all holders nearest to an id.
        reaches: tells whether this host has the IP version of an endpoint.
        rng: draws the far buckets.
        now: start of the time limit.
    """

    def __init__(
        self,
        own_id: NodeId,
        start: Iterable[Contact],
        settings: DhtSettings,
        *,
        verify: Verify,
        rng: Random,
        now: float,
        is_left: IsLeft = lambda *_: False,
        doubtful: Callable[[NodeId], bool] = lambda _: False,
        reaches: Callable[[Endpoint], bool] = lambda _: True,
    ) -> None:
        self._own_id = own_id
        self._settings = settings
        self._verify = verify
        self._is_left = is_left
        self._rng = rng
        self._doubtful = doubtful
        self._reaches = reaches
        self.started_at = now
        self.queries_sent = 0
        self._deadline = now + settings.crawl_time_s
        self._nodes: dict[NodeId, _Progress] = {}
        self._introductions = Introductions(settings.k)
        self._subnets: Counter[bytes] = Counter()
        self._endpoints: Counter[Endpoint] = Counter()
        self._waiting: deque[Query] = deque()
        self._silent: deque[NodeId] = deque()
        self._all_asked = False
        self._holders: list[int] = []
        """The nodes that had answered when all were asked, in ascending order."""
        self._questions: Counter[int] = Counter()
        self._in_flight = 0
        self._found: dict[NodeId, int] = {}
        """The highest sequence number of each node."""
        self._overflowed = False
        self.refused_records = 0
        for contact in start:
            self._discover(contact, None)

    @property
    def descriptors(self) -> int:
        """Number of nodes whose descriptor was found."""
        return len(self._found)

    @property
    def answered_ids(self) -> list[NodeId]:
        """The nodes that have answered."""
        return [node_id for node_id, node in self._nodes.items() if node.answered]

    @property
    def complete(self) -> bool:
        """Whether every known node was asked."""
        return not (self._waiting or self._in_flight or self._silent)

    @property
    def exhaustive(self) -> bool:
        """Whether a node that this crawl does not know is probably off line."""
        return self.complete and not self._overflowed

    def unanswered(self) -> dict[NodeId, Endpoint | None]:
        """Return the nodes without an answer, with the asked endpoint, or None if not asked."""
        return {
            node_id: node.contact.endpoint if node.asked else None
            for node_id, node in self._nodes.items()
            if not node.answered
        }

    def queries(self, now: float) -> list[Query]:
        """Return the queries to send now, so that at most ``crawl_in_flight`` are in flight."""
        chosen: list[Query] = []
        while now < self._deadline and self._in_flight < self._settings.crawl_in_flight:
            if not self._waiting:
                self._turn_to_the_silent()
            if not self._waiting:
                break
            query = self._waiting.popleft()
            progress = self._nodes[query.contact.node_id]
            if not progress.asked and not self._is_believed(progress):
                progress.shelved = True
                continue
            self._in_flight += 1
            self.queries_sent += 1
            progress.asked = True
            del progress.introducers[1:]
            chosen.append(query)
        return chosen

    def answered(self, query: Query, reply: Reply, now: float) -> Sequence[DescriptorFound]:
        """Process an answer; return its descriptor if it is newer than what was found so far."""
        self._in_flight -= 1
        progress = self._nodes[query.contact.node_id]
        if not progress.answered:
            progress.answered = True
            self._introductions.answered(progress.introducers[0])
            self._waiting.extend(self._neighbourhood_queries(query.contact))
        if isinstance(reply, Record) and isinstance(query.request, FindRecord):
            return self._take(reply.record, query, query.request.key, now)
        if isinstance(reply, Contacts) and not _is_holder_query(query):
            # One node may introduce at most the k contacts of each of three replies.
            introducer = self._group(query.contact)
            for contact in reply.contacts[: self._settings.k]:
                self._discover(contact, introducer)
        return ()

    def failed(self, query: Query) -> None:
        """Queue a node without any answer for the requests to its holders."""
        self._in_flight -= 1
        if _is_own_record_query(query):
            self._silent.append(query.contact.node_id)
            self._introductions.silent(self._nodes[query.contact.node_id].introducers[0])

    def slow(self, query: Query) -> None:
        """Continue to wait, because a crawl should find all nodes and is not urgent."""

    def finished(self, now: float) -> bool:
        """Tell whether the crawl is complete or its time is over."""
        return self.complete or now >= self._deadline

    def next_deadline(self) -> float:
        """Return the end of the time limit."""
        return self._deadline

    def _discover(self, contact: Contact, introducer: bytes | None) -> None:
        node_id = contact.node_id
        known = self._nodes.get(node_id)
        if known is not None:
            self._heard_again(known, contact, introducer)
        elif node_id != self._own_id and self._introductions.may_add(introducer):
            if len(self._nodes) >= self._settings.crawl_max_nodes:
                self._overflowed = True
                return
            self._nodes[node_id] = _Progress(contact, [introducer])
            self._introductions.add(introducer)
            self._enqueue(contact)

    def _heard_again(self, known: _Progress, contact: Contact, introducer: bytes | None) -> None:
        """Record a further subnet that names a node which was not asked, if it is trusted."""
        if known.asked or introducer in known.introducers:
            return
        if not self._introductions.believed(introducer):
            return
        known.introducers.append(introducer)
        if known.shelved:
            known.shelved, known.contact = False, contact
            self._enqueue(contact)

    def _is_believed(self, progress: _Progress) -> bool:
        return any(self._introductions.believed(each) for each in progress.introducers)

    def _enqueue(self, contact: Contact) -> None:
        group = self._group(contact)
        if not self._reaches(contact.endpoint):
            self._silent.append(contact.node_id)  # nodes of that IP version store its record
            return
        if (
            self._subnets[group] >= self._settings.crawl_prefix_limit
            or self._endpoints[contact.endpoint] >= _MAX_IDS_PER_ENDPOINT
        ):
            # A hostile node may have invented these ids to exclude the honest node at this endpoint
            # or subnet. So the nodes that store the record are asked instead.
            self._silent.append(contact.node_id)
            return
        self._subnets[group] += 1
        self._endpoints[contact.endpoint] += 1
        self._waiting.append(Query(contact, FindRecord(contact.node_id)))

    def _group(self, contact: Contact) -> bytes:
        return source_group(contact.endpoint, limit_private=self._settings.limit_private_prefixes)

    def _neighbourhood_queries(self, contact: Contact) -> list[Query]:
        """Return queries near the node's id and in one of its about log2(n / k) full buckets."""
        far_buckets = max(1, (len(self._nodes) // self._settings.k).bit_length() + 1)
        bit = 8 * NODE_ID_BYTES - 1 - self._rng.randrange(far_buckets)
        far = flipped(contact.node_id, bit)
        return [Query(contact, FindNode(contact.node_id)), Query(contact, FindNode(far))]

    def _turn_to_the_silent(self) -> None:
        """Queue the requests for the next node without an answer, after all nodes were asked."""
        if not self._all_asked and not self._in_flight:
            self._all_asked = True
            self._holders = sorted(int.from_bytes(each, "big") for each in self.answered_ids)
        while self._all_asked and self._silent and not self._waiting:
            self._ask_holders(self._silent.popleft())

    def _ask_holders(self, node_id: NodeId) -> None:
        """Queue requests for the record of a node to the nearest nodes that answered."""
        crowd = _DOUBTFUL_HOLDERS * self._settings.k
        wanted = crowd if self._doubtful(node_id) else HOLDERS_ASKED
        request = FindRecord(node_id)
        near = nearest_numbers(self._holders, int.from_bytes(node_id, "big"), crowd)
        at_most = QUESTIONS_PER_HOLDER * self._settings.k
        for number in [each for each in near if self._questions[each] < at_most][:wanted]:
            self._questions[number] += 1
            holder = self._nodes[NodeId(number.to_bytes(NODE_ID_BYTES, "big"))].contact
            self._waiting.append(Query(holder, request))

    def _take(
        self, record: bytes, query: Query, key: NodeId, now: float
    ) -> Sequence[DescriptorFound]:
        try:
            descriptor = self._verify(record, key, now)
        except PeerError:
            self.refused_records += 1
            return ()
        if descriptor.sequence <= self._found.get(key, -1):
            return ()
        self._found[key] = descriptor.sequence
        if self._is_left(descriptor, now):
            return ()
        return (DescriptorFound(descriptor, answered=not _is_holder_query(query)),)


def _is_own_record_query(query: Query) -> bool:
    return isinstance(query.request, FindRecord) and query.request.key == query.contact.node_id


def _is_holder_query(query: Query) -> bool:
    return isinstance(query.request, FindRecord) and not _is_own_record_query(query)
