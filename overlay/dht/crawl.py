"""A crawl of the whole overlay: every node that lives, and every node's descriptor.

The Mix-nodes Topology Table is filled from here alone, so that which node a circuit will
use never shows on the network. Three steps for every node that comes to be known:

1. FIND_RECORD of its own id: its descriptor, from itself;
2. FIND_NODE of its own id: its neighbourhood;
3. FIND_NODE of its own id with one of the leading bits flipped, drawn at random: a sample of
   its far buckets, which ties the neighbourhoods together.

When that has closed, the descriptors of nodes that stayed silent are taken from the nodes
nearest to their ids, which hold them until they expire; several are asked, and the highest
sequence number counts, since the first to answer may be one that holds back or keeps an old one.
Most of the silent may be inventions, so their holders are looked up one at a time, and no holder
is asked about more of them than a real neighbourhood could have: nobody aims a crawl at it. A
subnet that introduced too many of them is believed no more: whom it alone names is not asked.

Reasons: docs/decisions/0008.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random
from typing import Final

from overlay.addresses import NODE_ID_BYTES, Endpoint, NodeId
from overlay.dht.admission import source_group
from overlay.dht.descriptor import MixDescriptor
from overlay.dht.eclipse import nearest_numbers
from overlay.dht.introductions import Introductions
from overlay.dht.lookup import Query
from overlay.dht.messages import Contact, Contacts, FindNode, FindRecord, Record, Reply
from overlay.dht.routing import flipped
from overlay.dht.settings import DhtSettings
from overlay.errors import PeerError

__all__ = ["Crawl"]

_HOLDERS_ASKED: Final = 3
_DOUBTFUL_HOLDERS: Final = 2
"""How many times k holders are asked about a node in a region that looks eclipsed."""
_QUESTIONS_PER_HOLDER: Final = 4
"""How many times k silent nodes one holder is asked about."""
_MAX_IDS_PER_ENDPOINT: Final = 3

Verify = Callable[[bytes, NodeId], MixDescriptor]


@dataclass(slots=True)
class _Progress:
    """What one node has still to be asked, and whether it has answered at all."""

    contact: Contact
    introducers: list[bytes | None]
    """The subnets that named it before it was asked, the first of which answers for its being
    there; None: our own table."""
    answered: bool = False
    asked: bool = False
    shelved: bool = False
    """Its turn came when none of those was believed any more."""


class Crawl:
    """One walk over the overlay.

    Args:
        own_id: never asked.
        start: contacts to begin with.
        settings: how many nodes, in flight, of one subnet, and for how long.
        verify: turns a record into a descriptor of the node asked for, or raises PeerError.
        on_descriptor: gets each verified descriptor once, and whether its owner gave it.
        doubtful: tells whether the holders nearest to an id may all be one adversary's.
        reaches: tells whether this host has the IP version of an endpoint.
        rng: draws the far buckets.
        now: when the time budget begins.
    """

    def __init__(
        self,
        own_id: NodeId,
        start: Iterable[Contact],
        settings: DhtSettings,
        *,
        verify: Verify,
        on_descriptor: Callable[[MixDescriptor, bool], None],
        rng: Random,
        now: float,
        doubtful: Callable[[NodeId], bool] = lambda _: False,
        reaches: Callable[[Endpoint], bool] = lambda _: True,
    ) -> None:
        self._own_id = own_id
        self._settings = settings
        self._verify = verify
        self._on_descriptor = on_descriptor
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
        """Who had answered once everybody was asked, in ascending order."""
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
        """How many nodes' descriptors were found."""
        return len(self._found)

    @property
    def answered_ids(self) -> list[NodeId]:
        """Who has answered."""
        return [node_id for node_id, node in self._nodes.items() if node.answered]

    @property
    def complete(self) -> bool:
        """Whether nobody that became known was left unasked."""
        return not (self._waiting or self._in_flight or self._silent)

    @property
    def exhaustive(self) -> bool:
        """Whether who is unknown to this crawl is most likely not there: nobody was left out."""
        return self.complete and not self._overflowed

    def unanswered(self) -> dict[NodeId, Endpoint | None]:
        """Return who did not answer, and where it was asked; None if it was not asked at all."""
        return {
            node_id: node.contact.endpoint if node.asked else None
            for node_id, node in self._nodes.items()
            if not node.answered
        }

    def queries(self, now: float) -> list[Query]:
        """Return what to ask now, up to ``crawl_in_flight`` queries at a time."""
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

    def answered(self, query: Query, reply: Reply) -> None:
        """Take a node's contacts or a descriptor."""
        self._in_flight -= 1
        progress = self._nodes[query.contact.node_id]
        if not progress.answered:
            progress.answered = True
            self._introductions.answered(progress.introducers[0])
            self._waiting.extend(self._neighbourhood_queries(query.contact))
        if isinstance(reply, Record) and isinstance(query.request, FindRecord):
            self._take(reply.record, query.request.key, answered=not _is_holder_query(query))
        elif isinstance(reply, Contacts) and not _is_holder_query(query):
            # Three replies of k contacts each are all that one node may introduce.
            introducer = self._group(query.contact)
            for contact in reply.contacts[: self._settings.k]:
                self._discover(contact, introducer)

    def failed(self, query: Query) -> None:
        """Remember a node that did not answer at all for the second step."""
        self._in_flight -= 1
        if _is_own_record_query(query):
            self._silent.append(query.contact.node_id)
            self._introductions.silent(self._nodes[query.contact.node_id].introducers[0])

    def slow(self, query: Query) -> None:
        """Wait on: a crawl has time, and wants everybody who is there."""

    def finished(self, now: float) -> bool:
        """Tell whether the walk has closed or its time is over."""
        return self.complete or now >= self._deadline

    def next_deadline(self) -> float:
        """Return the end of the time budget."""
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
        """Note who else names a node that was not asked yet, as long as we believe them."""
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
            self._silent.append(contact.node_id)  # nodes that have that IP version hold its record
            return
        if (
            self._subnets[group] >= self._settings.crawl_subnet_limit
            or self._endpoints[contact.endpoint] >= _MAX_IDS_PER_ENDPOINT
        ):
            # Perhaps inventions of a liar, made to crowd out who lives there: ask the holders.
            self._silent.append(contact.node_id)
            return
        self._subnets[group] += 1
        self._endpoints[contact.endpoint] += 1
        self._waiting.append(Query(contact, FindRecord(contact.node_id)))

    def _group(self, contact: Contact) -> bytes:
        return source_group(contact.endpoint, limit_private=self._settings.limit_private_subnets)

    def _neighbourhood_queries(self, contact: Contact) -> list[Query]:
        """Ask near its id and in one far bucket, of the about log2(n / k) that are full."""
        far_buckets = max(1, (len(self._nodes) // self._settings.k).bit_length() + 1)
        bit = 8 * NODE_ID_BYTES - 1 - self._rng.randrange(far_buckets)
        far = flipped(contact.node_id, bit)
        return [Query(contact, FindNode(contact.node_id)), Query(contact, FindNode(far))]

    def _turn_to_the_silent(self) -> None:
        """Queue what to ask about the next silent node, once everybody was asked."""
        if not self._all_asked and not self._in_flight:
            self._all_asked = True
            self._holders = sorted(int.from_bytes(each, "big") for each in self.answered_ids)
        while self._all_asked and self._silent and not self._waiting:
            self._ask_holders(self._silent.popleft())

    def _ask_holders(self, node_id: NodeId) -> None:
        """Queue a silent node's record with the nodes nearest to it that answered."""
        crowd = _DOUBTFUL_HOLDERS * self._settings.k
        wanted = crowd if self._doubtful(node_id) else _HOLDERS_ASKED
        request = FindRecord(node_id)
        near = nearest_numbers(self._holders, int.from_bytes(node_id, "big"), crowd)
        at_most = _QUESTIONS_PER_HOLDER * self._settings.k
        for number in [each for each in near if self._questions[each] < at_most][:wanted]:
            self._questions[number] += 1
            holder = self._nodes[NodeId(number.to_bytes(NODE_ID_BYTES, "big"))].contact
            self._waiting.append(Query(holder, request))

    def _take(self, record: bytes, key: NodeId, *, answered: bool) -> None:
        try:
            descriptor = self._verify(record, key)
        except PeerError:
            self.refused_records += 1
            return
        if descriptor.sequence > self._found.get(key, -1):
            self._found[key] = descriptor.sequence
            self._on_descriptor(descriptor, answered)


def _is_own_record_query(query: Query) -> bool:
    return isinstance(query.request, FindRecord) and query.request.key == query.contact.node_id


def _is_holder_query(query: Query) -> bool:
    return isinstance(query.request, FindRecord) and not _is_own_record_query(query)
