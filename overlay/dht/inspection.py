"""Examine a DHT core, and make lookups through it whose results are measured.

The simulator, the laboratory and tests use this interface. A node does not: it makes no lookup for
one node, because that would reveal a hop (``overlay.dht.core``).

Reasons: docs/decisions/0060.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from overlay.addresses import NodeId
from overlay.dht.calls import VerifiedReply
from overlay.dht.core import Dht
from overlay.dht.crawl import HOLDERS_ASKED
from overlay.dht.descriptor import MixDescriptor
from overlay.dht.lookup import Lookup
from overlay.dht.lookups import OnLookedUp
from overlay.dht.membership import Phase
from overlay.dht.messages import Contact, FindRecord, Record
from overlay.dht.parts import DhtParts
from overlay.errors import PeerError

__all__ = ["DhtInspection", "LookupInspection", "OnFetched"]

OnFetched = Callable[[MixDescriptor | None, int], None]
"""Receives the descriptor, or None if no node had a valid one, and the number of nodes asked."""


class DhtInspection:
    """A view of one core. It holds no state of its own, so it may be made for each use."""

    __slots__ = ("_parts",)

    def __init__(self, dht: Dht) -> None:
        self._parts = dht.parts

    @property
    def joined(self) -> bool:
        """Whether the node is a member now."""
        return self._parts.membership.phase is Phase.JOINED

    @property
    def record_count(self) -> int:
        """Number of descriptors that this node stores for others."""
        return len(self._parts.store)

    def estimated_size(self, now: float) -> float | None:
        """Return the estimated number of nodes; None while too little is known."""
        return self._parts.watch.size(now)

    def contacts(self) -> list[Contact]:
        """Return the contacts of the whole routing table."""
        return list(self._parts.table)

    def buckets(self) -> list[list[Contact]]:
        """Return the contacts of each bucket, replacements included."""
        return [[each.contact for each in bucket.entries()] for bucket in self._parts.table.buckets]

    def holds(self, node_id: NodeId, now: float) -> MixDescriptor | None:
        """Return the unexpired descriptor of another node that is stored here."""
        return self._parts.store.find(node_id, now)

    def suspects(self, lookup: Lookup, now: float) -> bool:
        """Tell whether the result of a probe raises the eclipse alarm of this node."""
        watch = self._parts.watch
        watch.looked_up(lookup.target, lookup.closest(), now)
        return watch.suspects(lookup.target, now)

    def disable_crawls(self) -> None:
        """Do not crawl, as a host does that examines the overlay and opens no circuits.

        Call it before the core has contacts. A node always crawls, because otherwise its traffic
        would show whether it opens circuits (0008).
        """
        self._parts.crawling.enabled = False

    def probe(self, target: NodeId, now: float, on_finished: OnLookedUp) -> None:
        """Look up a node as refreshes do, without a change of the age of buckets."""
        self._parts.lookups.probe(target, now, on_finished)

    def fetch(
        self, key: NodeId, holders: Sequence[Contact], now: float, on_finished: OnFetched
    ) -> None:
        """Request a record from these nodes, nearest first, until three returned a valid one."""
        _Fetch(self._parts, key, holders, on_finished).ask(now)


class LookupInspection:
    """A view of one lookup: which of its disjoint paths asked a node, and after how many hops."""

    __slots__ = ("_lookup",)

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup

    def path_of(self, contact: Contact) -> int:
        """Return the number of the disjoint path that asked a contact, from 0."""
        return self._lookup.paths.index(self._lookup.asks[contact].path)

    def hops_to(self, node_id: NodeId) -> int | None:
        """Return the hops after which an asked node was found; 0 for an own contact."""
        ask = self._lookup.latest.get(node_id)
        return None if ask is None else ask.path.candidates[node_id].hops


class _Fetch:
    """The retrieval of one record: three holders at a time, until three returned a valid one.

    The newest record counts, so that a single holder cannot replay an old record.
    """

    __slots__ = ("_answered_by", "_asked", "_best", "_holders", "_key", "_on_finished", "_parts",
                 "_waiting")  # fmt: skip

    def __init__(
        self, parts: DhtParts, key: NodeId, holders: Sequence[Contact], on_finished: OnFetched
    ) -> None:
        self._parts = parts
        self._key = key
        self._holders = holders
        self._on_finished: OnFetched | None = on_finished
        self._best: MixDescriptor | None = None
        self._asked = self._waiting = self._answered_by = 0

    def ask(self, now: float) -> None:
        """Send the missing requests; report the result when no request is left."""
        while self._waiting + self._answered_by < HOLDERS_ASKED and self._asked < len(
            self._holders
        ):
            contact = self._holders[self._asked]
            self._asked += 1
            self._waiting += 1
            self._parts.calls.start(
                FindRecord(self._key), contact.endpoint, contact.node_id, now, self._answered
            )
        if not self._waiting and self._on_finished is not None:
            told, self._on_finished = self._on_finished, None
            told(self._best, self._asked)

    def _answered(self, answer: VerifiedReply | None, now: float) -> None:
        self._waiting -= 1
        if answer is not None and isinstance(answer.reply, Record):
            self._take(answer.reply.record, now)
        self.ask(now)

    def _take(self, record: bytes, now: float) -> None:
        try:
            descriptor = self._parts.check(record, self._key, now)
        except PeerError:
            return
        self._answered_by += 1
        if self._best is None or descriptor.sequence > self._best.sequence:
            self._best = descriptor
