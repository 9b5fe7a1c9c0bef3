"""The Mix-nodes Topology Table (MTT): every Mix-node that this node knows (paper, section 2.2).

Descriptors come in through :meth:`TopologyTable.add` once they are verified; selectors read a
:class:`TopologySnapshot`; Anonymous Paths Management looks keys up by overlay address. The
table never asks the network: what it does not hold it does not know.
"""

from __future__ import annotations

import enum
import math
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from overlay.addresses import Endpoint, NodeId, OverlayAddress
from overlay.dht.descriptor import MixDescriptor, OnionKey, Role, is_public
from overlay.dht.events import (
    CrawlFinished,
    DescriptorFound,
    DescriptorRenewed,
    DhtEvent,
    NodeLeft,
)
from overlay.identity import meets_cost

__all__ = ["MAX_ENTRIES", "CryptoInfo", "Rejection", "TopologySnapshot", "TopologyTable"]

MAX_ENTRIES: Final = 20_000
"""At most 20 MB of descriptors; verifying as many at start takes a few seconds."""

_NOBODY: Final[Mapping[NodeId, Endpoint | None]] = MappingProxyType({})


class Rejection(enum.Enum):
    """Reason why a verified descriptor was not added; it is counted and never logged."""

    EXPIRED = "expired"
    PRIVATE_ENDPOINT = "private endpoint"
    SUPERSEDED = "superseded"
    """Its sequence number is lower than the known one's."""
    UNCHANGED = "unchanged"
    CONFLICTING = "conflicting"
    """It has the known one's sequence number and another content: its owner misbehaves."""
    FULL = "table full"
    UNDER_COST = "identity under cost"
    """Its identity costs less than the network asks (``identity_cost_bits``)."""


@dataclass(frozen=True, slots=True)
class CryptoInfo:
    """What a node supports: its onion keys with their suites, and its ESP suites."""

    onion_keys: tuple[OnionKey, ...]
    esp_suites: tuple[int, ...]


class TopologySnapshot:
    """The unexpired Mix-nodes at one moment, in the order of their ids; a ``TopologyView``."""

    __slots__ = ("_descriptors",)

    def __init__(self, descriptors: Iterable[tuple[NodeId, MixDescriptor]]) -> None:
        self._descriptors = dict(descriptors)

    def __iter__(self) -> Iterator[MixDescriptor]:
        return iter(self._descriptors.values())

    def __len__(self) -> int:
        return len(self._descriptors)

    def get(self, node_id: NodeId) -> MixDescriptor | None:
        """Return the descriptor of one node, or None if it was not known at that moment."""
        return self._descriptors.get(node_id)


# Large: one table, with a method for each question about it.
class TopologyTable:
    """Own the verified descriptors, at most one of each node and ``max_entries`` in total.

    A full table keeps its nodes: a new node is added when another one expires or leaves. So an
    attacker with many new identities cannot displace known nodes. New nodes are not excluded
    either, because a node that answered itself replaces one that never did. If a node has several
    descriptors, the one with the highest sequence number counts. Unless ``allow_private_endpoints``
    is set, a descriptor with an endpoint outside of the public Internet is refused. Otherwise it
    could make this node send to hosts of its own network.

    Identities that cost less than ``identity_cost_bits`` (a setting in ``[dht]``) are refused.

    Iteration, ``get`` and look-ups still find entries that expired since the last :meth:`expire`.
    :meth:`view` omits them.
    """

    def __init__(
        self,
        *,
        allow_private_endpoints: bool = False,
        max_entries: int = MAX_ENTRIES,
        identity_cost_bits: int = 0,
    ) -> None:
        if max_entries < 1:
            raise ValueError("a topology table needs room for at least one entry.")
        self._allow_private_endpoints = allow_private_endpoints
        self._max_entries = max_entries
        self._identity_cost_bits = identity_cost_bits
        self._descriptors: dict[NodeId, MixDescriptor] = {}
        self._ordered: list[NodeId] = []
        self._by_overlay_address: dict[OverlayAddress, NodeId] = {}
        self._heard: dict[NodeId, float] = {}
        self._crawled_from = -math.inf
        self._excused: frozenset[NodeId] = frozenset()
        self._rejections: Counter[Rejection] = Counter()
        self._earliest_expiry = math.inf
        """No entry expires earlier. After a descriptor was replaced, it may be too early."""

    # -- changes -----------------------------------------------------------------------

    def add(self, descriptor: MixDescriptor, now: float, *, answered: bool = False) -> bool:
        """Add a verified descriptor; return True if the table changed.

        Otherwise the reason is counted. ``answered`` is True if its owner has just sent it.
        """
        node_id = descriptor.node_id
        rejection = self._rejection(node_id, descriptor, now, answered)
        if rejection is not None:
            self._rejections[rejection] += 1
            return False
        if node_id not in self._descriptors:
            insort(self._ordered, node_id)
            self._by_overlay_address[descriptor.overlay_address] = node_id
        self._descriptors[node_id] = descriptor
        self._earliest_expiry = min(self._earliest_expiry, descriptor.expires)
        return True

    def remove(self, node_id: NodeId) -> bool:
        """Remove one node; return False if it was not known."""
        descriptor = self._descriptors.pop(node_id, None)
        if descriptor is None:
            return False
        del self._ordered[bisect_left(self._ordered, node_id)]
        del self._by_overlay_address[descriptor.overlay_address]
        self._heard.pop(node_id, None)
        return True

    def take(self, event: DhtEvent, now: float) -> None:
        """Process an event of the DHT; most kinds do not concern the table."""
        match event:
            case DescriptorFound(descriptor=descriptor, answered=answered):
                self.add(descriptor, now, answered=answered)
                if answered:
                    self.heard(descriptor.node_id, now)
            case DescriptorRenewed(descriptor=descriptor):
                # Accept only a new descriptor of a known node, for example with a new address.
                # Only crawls add nodes. Otherwise nearby nodes could choose the table's content.
                if descriptor.node_id in self._descriptors:
                    self.add(descriptor, now)
                    self.heard(descriptor.node_id, now)
            case NodeLeft(node_id=node_id):
                self.remove(node_id)
            case CrawlFinished(started_at=started_at, exhaustive=True, unanswered=unanswered):
                # If a crawl omitted nodes, it does not show which nodes are silent.
                self.crawled(started_at, unanswered)
            case _:
                pass

    def heard(self, node_id: NodeId, now: float) -> None:
        """Record that a known node itself has just answered."""
        if node_id in self._descriptors:
            self._heard[node_id] = now

    def heard_at(self, node_id: NodeId) -> float | None:
        """Return when a node last answered by itself, in Unix seconds; None if it never did."""
        return self._heard.get(node_id)

    def crawled(
        self, started_at: float, unanswered: Mapping[NodeId, Endpoint | None] = _NOBODY
    ) -> None:
        """Record that all nodes have been asked since ``started_at``.

        ``unanswered`` has the endpoint at which each silent node was asked, None if it was not
        asked. Other nodes choose these endpoints, and can use up the limit of a subnet. So silence
        counts only at an endpoint in the node's own descriptor. Otherwise hostile nodes could make
        honest nodes seem to have left.
        """
        self._crawled_from = started_at
        self._excused = frozenset(
            node_id
            for node_id, endpoint in unanswered.items()
            if (known := self._descriptors.get(node_id)) is not None
            and endpoint not in known.endpoints
        )

    def unheard(self) -> frozenset[NodeId]:
        """Return the nodes that did not answer the last crawl.

        A descriptor is valid for hours after its owner's session, so these nodes have probably
        left. The result is empty until the first crawl has ended.
        """
        since = self._crawled_from
        return frozenset(
            node_id
            for node_id in self._ordered
            if self._heard.get(node_id, -math.inf) < since and node_id not in self._excused
        )

    def never_heard(self) -> frozenset[NodeId]:
        """Return the nodes that have never answered themselves."""
        return frozenset(self._descriptors.keys() - self._heard.keys())

    def expire(self, now: float) -> int:
        """Remove all nodes with an expired descriptor, and return their number."""
        if now < self._earliest_expiry:
            return 0
        expired = [node_id for node_id, d in self._descriptors.items() if d.expires <= now]
        for node_id in expired:
            self.remove(node_id)
        self._earliest_expiry = min((d.expires for d in self), default=math.inf)
        return len(expired)

    def next_expiry(self) -> float:
        """Return a time (Unix seconds) before which :meth:`expire` has nothing to do."""
        return self._earliest_expiry

    def _rejection(
        self, node_id: NodeId, descriptor: MixDescriptor, now: float, answered: bool
    ) -> Rejection | None:
        if descriptor.expires <= now:
            return Rejection.EXPIRED
        if not self._allow_private_endpoints and not all(map(is_public, descriptor.endpoints)):
            return Rejection.PRIVATE_ENDPOINT
        if not meets_cost(descriptor.identity_key, self._identity_cost_bits):
            return Rejection.UNDER_COST
        known = self._descriptors.get(node_id)
        if known is not None:
            return _rejection_beside(known, descriptor)
        if len(self._descriptors) >= self._max_entries and not self._make_room(now, answered):
            return Rejection.FULL
        return None

    def _make_room(self, now: float, answered: bool) -> bool:
        """Remove expired nodes, or the oldest node that never answered, for one that did."""
        if self.expire(now):
            return True
        if not answered:
            return False
        never_heard = next((each for each in self._descriptors if each not in self._heard), None)
        return never_heard is not None and self.remove(never_heard)

    # -- reading -----------------------------------------------------------------------

    def __iter__(self) -> Iterator[MixDescriptor]:
        """Yield every descriptor in the order of the node ids."""
        return (self._descriptors[node_id] for node_id in self._ordered)

    def __len__(self) -> int:
        return len(self._descriptors)

    def get(self, node_id: NodeId) -> MixDescriptor | None:
        """Return the descriptor of one node, or None if the table does not know it."""
        return self._descriptors.get(node_id)

    def by_overlay_address(self, overlay_address: OverlayAddress) -> MixDescriptor | None:
        """Return the descriptor of the node with this overlay address, or None."""
        node_id = self._by_overlay_address.get(overlay_address)
        return None if node_id is None else self._descriptors[node_id]

    def view(self, now: float) -> TopologySnapshot:
        """Return the Mix-nodes that are unexpired at ``now``, for path selection."""
        return TopologySnapshot(
            (node_id, descriptor)
            for node_id in self._ordered
            if (descriptor := self._descriptors[node_id]).expires > now
        )

    def lookup_public_key(self, overlay_address: OverlayAddress, suite: int) -> bytes | None:
        """Return a node's public onion key for a suite (paper: ``mtt_lookup_public_key()``).

        None if the node is not known or does not support the suite.
        """
        descriptor = self.by_overlay_address(overlay_address)
        return None if descriptor is None else descriptor.onion_key(suite)

    def lookup_crypto_info(self, overlay_address: OverlayAddress) -> CryptoInfo | None:
        """Return the suites of a node (paper: ``mtt_lookup_crypto_info()``), None if unknown."""
        descriptor = self.by_overlay_address(overlay_address)
        if descriptor is None:
            return None
        return CryptoInfo(descriptor.onion_keys, descriptor.esp_suites)

    def offering(self) -> int:
        """Return the number of nodes with any role."""
        return sum(bool(descriptor.roles) for descriptor in self)

    def count(self, role: Role) -> int:
        """Return the number of nodes with this role."""
        return sum(role in descriptor.roles for descriptor in self)

    def rejections(self) -> dict[Rejection, int]:
        """Return the number of descriptors that were not added, by reason."""
        return dict(self._rejections)


def _rejection_beside(known: MixDescriptor, offered: MixDescriptor) -> Rejection | None:
    if offered.sequence < known.sequence:
        return Rejection.SUPERSEDED
    if offered.sequence > known.sequence:
        return None
    return Rejection.UNCHANGED if offered.encoded == known.encoded else Rejection.CONFLICTING
