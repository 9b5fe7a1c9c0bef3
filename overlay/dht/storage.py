"""Store descriptors of other nodes: verified before they are stored, removed at their expiry.

Every record is parsed and verified when it is written. Its key is a hash of the key that signed it,
and its sequence number only grows. Storing it again does not extend its validity. A LEAVE message
creates a tombstone, which refuses descriptors up to its sequence number.
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from overlay.addresses import NodeId
from overlay.dht.descriptor import MAX_VALIDITY_S, MixDescriptor, UnverifiedDescriptor
from overlay.dht.routing import distance
from overlay.dht.settings import DhtSettings
from overlay.errors import LimitReached, NotAuthentic, Refused, Replayed
from overlay.identity import meets_cost

__all__ = [
    "MAX_TOMBSTONES",
    "RecordCheck",
    "RecordStore",
    "StoreLoad",
    "VerifyRecord",
    "verified_record",
]

MAX_TOMBSTONES: Final = 4096


def _provider(source: bytes) -> bytes:
    """Return the /16 of a /24, the /32 of a /48, or what is neither without its port.

    A source has 3 bytes (/24), 6 (/48, or a private IPv4 endpoint) or 18.
    """
    return source[:2] if len(source) == 3 else source[:4] if len(source) == 6 else source[:16]


class VerifyRecord(Protocol):
    """A function that parses and verifies stored bytes as the descriptor of ``key``."""

    def __call__(
        self, record: bytes, key: NodeId, *, network_id: str, now: float, cost_bits: int = 0
    ) -> MixDescriptor:
        """Return the descriptor, or raise PeerError."""
        ...


def verified_record(
    record: bytes, key: NodeId, *, network_id: str, now: float, cost_bits: int = 0
) -> MixDescriptor:
    """Parse and verify stored bytes as the descriptor of the node ``key``.

    Raises:
        PeerError: the bytes are malformed, do not verify, are expired or belong to another
            node, or the identity costs less than ``cost_bits``.
    """
    descriptor = UnverifiedDescriptor.parse(record).verify(network_id=network_id, now=now)
    if descriptor.node_id != key:
        raise NotAuthentic("the record belongs to another node")
    if not meets_cost(descriptor.identity_key, cost_bits):
        raise Refused("the identity costs less than this network asks")
    return descriptor


@dataclass(frozen=True, slots=True)
class RecordCheck:
    """Verifies records of one network, whose identities must cost ``cost_bits``."""

    verify: VerifyRecord
    network_id: str
    cost_bits: int

    def __call__(self, record: bytes, key: NodeId, now: float) -> MixDescriptor:
        """Return the descriptor of the node ``key``, or raise PeerError."""
        return self.verify(
            record, key, network_id=self.network_id, now=now, cost_bits=self.cost_bits
        )


@dataclass(frozen=True, slots=True)
class _Stored:
    descriptor: MixDescriptor
    source: bytes
    stored_at: float


@dataclass(frozen=True, slots=True)
class _Tombstone:
    sequence: int
    until: float
    source: bytes


_NO_TOMBSTONE: Final = _Tombstone(-1, 0.0, b"")


class StoreLoad(NamedTuple):
    """How much a store holds: records, dates at which to look for expired ones, tombstones."""

    records: int
    expiry_dates: int
    tombstones: int


class RecordStore:
    """The records that this node stores for others, and tombstones of nodes that left.

    Owned by the DHT core. Holds at most ``max_records``, of which ``max_records_per_source``
    of one subnet and a third of one provider (/16 or /32). Holds 4,096 tombstones, with
    the same limit for a subnet, so that many identities of one subnet displace only their own
    tombstones. When the store is full, a record nearer to our own id displaces the farthest.
    """

    def __init__(
        self,
        own_id: NodeId,
        network_id: str,
        settings: DhtSettings,
        verify: VerifyRecord = verified_record,
    ) -> None:
        self._own_id = own_id
        self._network_id = network_id
        self._settings = settings
        self._verify = verify
        self._records: OrderedDict[NodeId, _Stored] = OrderedDict()
        self._sources: Counter[bytes] = Counter()
        self._of_provider: Counter[bytes] = Counter()
        self._expiries: list[tuple[float, NodeId]] = []
        self._left: OrderedDict[NodeId, _Tombstone] = OrderedDict()
        self._left_from: Counter[bytes] = Counter()

    def put(
        self, key: NodeId, record: bytes, source: bytes, now: float, *, responsible: bool
    ) -> None:
        """Verify and store a record that a sender of the subnet ``source`` sent.

        ``responsible`` tells that this node is among the closest to ``key`` that it knows:
        only then may the record displace another.

        Raises:
            PeerError: the record is not acceptable, or older than what is known.
            LimitReached: there is no room for it.
        """
        self._drop_expired(now)
        if record == self.get(key, now):
            return
        descriptor = self._verify(
            record,
            key,
            network_id=self._network_id,
            now=now,
            cost_bits=self._settings.identity_cost_bits,
        )
        if self.is_left(descriptor, now):
            raise Replayed("the node has left since")
        known = self._records.get(key)
        if known is not None and descriptor.sequence <= known.descriptor.sequence:
            raise Replayed("this descriptor's sequence number is not above the known one")
        self._make_room(key, source, responsible=responsible)
        self._remove(key)
        self._records[key] = _Stored(descriptor, source, now)
        self._sources[source] += 1
        self._of_provider[_provider(source)] += 1
        self._remember_expiry(descriptor.expires, key)

    def find(self, key: NodeId, now: float) -> MixDescriptor | None:
        """Return the unexpired descriptor of a node, or None."""
        stored = self._records.get(key)
        if stored is None or stored.descriptor.expires <= now:
            return None
        return stored.descriptor

    def leave(self, key: NodeId, sequence: int, source: bytes, now: float) -> bool:
        """Refuse a node's descriptors up to ``sequence`` from now on; False if known already.

        ``source`` is the subnet of the sender of LEAVE.
        """
        stored = self._records.get(key)
        if stored is not None and stored.descriptor.sequence > sequence:
            return False
        known = self._forget_tombstone(key) or _NO_TOMBSTONE
        self._bury(key, _Tombstone(max(sequence, known.sequence), now + MAX_VALIDITY_S, source))
        if sequence <= known.sequence and now < known.until:
            return False
        self._remove(key)
        return True

    def is_left(self, descriptor: MixDescriptor, now: float) -> bool:
        """Tell whether the node sent LEAVE after it had signed this descriptor."""
        left = self._left.get(descriptor.node_id, _NO_TOMBSTONE)
        return descriptor.sequence <= left.sequence and now < left.until

    def _bury(self, key: NodeId, tombstone: _Tombstone) -> None:
        if self._left_from[tombstone.source] >= self._settings.max_records_per_source:
            oldest = next(k for k, t in self._left.items() if t.source == tombstone.source)
            self._forget_tombstone(oldest)
        elif len(self._left) >= MAX_TOMBSTONES:
            self._forget_tombstone(next(iter(self._left)))
        self._left[key] = tombstone
        self._left_from[tombstone.source] += 1

    def _forget_tombstone(self, key: NodeId) -> _Tombstone | None:
        forgotten = self._left.pop(key, None)
        if forgotten is not None:
            self._left_from[forgotten.source] -= 1
            if not self._left_from[forgotten.source]:
                del self._left_from[forgotten.source]
        return forgotten

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self._records)

    def load(self) -> StoreLoad:
        """Return how much the store holds."""
        return StoreLoad(len(self._records), len(self._expiries), len(self._left))

    def tombstones_by_source(self) -> dict[bytes, int]:
        """Return the number of tombstones of each subnet that sent LEAVE."""
        return dict(self._left_from)

    def get(self, key: NodeId, now: float) -> bytes | None:
        """Return the encoded descriptor of a node, unless it has expired or is not known."""
        descriptor = self.find(key, now)
        return None if descriptor is None else descriptor.encoded

    def _make_room(self, key: NodeId, source: bytes, *, responsible: bool) -> None:
        known = self._records.get(key)
        from_source = self._sources[source] - (known is not None and known.source == source)
        if from_source >= self._settings.max_records_per_source:
            raise LimitReached("this source has stored its share")
        if known is not None:
            return
        provider = _provider(source)
        has_share = self._of_provider[provider] >= -(-self._settings.max_records // 3)
        if not has_share and len(self._records) < self._settings.max_records:
            return
        # A provider that has its share makes room among its own records.
        rivals = [
            other
            for other, stored in self._records.items()
            if not has_share or _provider(stored.source) == provider
        ]
        farthest = max(rivals, key=lambda other: distance(other, self._own_id))
        if not responsible or distance(key, self._own_id) >= distance(farthest, self._own_id):
            raise LimitReached("the store is full, or the provider of this source has its share")
        self._remove(farthest)

    def _drop_expired(self, now: float) -> None:
        while self._expiries and self._expiries[0][0] <= now:
            _, key = heapq.heappop(self._expiries)
            stored = self._records.get(key)
            if stored is not None and stored.descriptor.expires <= now:
                self._remove(key)

    def _remember_expiry(self, expires: float, key: NodeId) -> None:
        heapq.heappush(self._expiries, (expires, key))
        if len(self._expiries) > 2 * len(self._records) + 64:
            # Replaced records leave entries with old dates, which are removed here at times.
            self._expiries = [
                (stored.descriptor.expires, key) for key, stored in self._records.items()
            ]
            heapq.heapify(self._expiries)

    def _remove(self, key: NodeId) -> None:
        stored = self._records.pop(key, None)
        if stored is None:
            return
        for counter, group in (
            (self._sources, stored.source),
            (self._of_provider, _provider(stored.source)),
        ):
            counter[group] -= 1
            if not counter[group]:
                del counter[group]
