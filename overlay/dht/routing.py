"""The routing table: the only module that uses the ``kademlia`` package.

It uses the package's ``Node`` with its XOR distance, the ranges of buckets, their split
arithmetic and their replacement caches. It replaces what has faults in version 2.2.3:

* A sign of life moves a contact to the tail of its bucket and updates its endpoint.
* ``find_neighbors`` returns the k closest contacts of the whole table.
* Bucket ranges end at 2**160 - 1, and searching uses the same ranges as adding.
* Only the bucket of our own id is split, so there are at most 160 k contacts.
* The time and the randomness are arguments, and this module sends nothing.
* Only our own lookups count as a refresh of a bucket, so other nodes cannot suppress one.

An addition is a limit per subnet (/24 or /48), for a bucket and for the table. It includes the
replacement caches, so that the address range of one operator cannot fill the table.

Reasons: docs/decisions/0007.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from random import Random
from typing import Final

from kademlia.node import Node
from kademlia.routing import KBucket, RoutingTable

from overlay.addresses import NODE_ID_BYTES, NodeId
from overlay.dht.admission import IPV6_SUBNET_BYTES, source_group
from overlay.dht.messages import Contact
from overlay.dht.settings import DhtSettings
from overlay.logs import silence_loggers

__all__ = ["Bucket", "Entry", "Table", "distance", "flipped"]

_IPV6_PROVIDER_BYTES: Final = 4
"""A /32, the smallest allocation of a registry to a provider."""

_LAST_ID: Final = 2 ** (8 * NODE_ID_BYTES) - 1


# They log addresses of peers at INFO, also in programs that do not call configure_logging.
silence_loggers(("kademlia", "rpcudp"))


def distance(one: bytes, other: bytes) -> int:
    """Return the XOR distance of two ids."""
    return int.from_bytes(one, "big") ^ int.from_bytes(other, "big")


def flipped(node_id: NodeId, bit: int) -> NodeId:
    """Return an id with one bit flipped; bit 0 is the lowest one."""
    number = int.from_bytes(node_id, "big") ^ (1 << bit)
    return NodeId(number.to_bytes(NODE_ID_BYTES, "big"))


class Entry:
    """A contact in a bucket, with the results of its latest calls.

    It stands where the package has a node, and is none: each would carry an unused dict.
    """

    __slots__ = ("contact", "failures", "group", "id", "last_seen", "long_id")

    def __init__(self, contact: Contact, group: bytes, last_seen: float) -> None:
        self.id = contact.node_id
        self.long_id = _shared_number(contact.node_id)
        self.contact = contact
        self.group = group
        self.last_seen = last_seen
        self.failures = 0

    @property
    def ip(self) -> str:
        """The address of its endpoint."""
        return self.contact.endpoint.host

    @property
    def port(self) -> int:
        """The port of its endpoint."""
        return self.contact.endpoint.port

    def same_home_as(self, other: Node) -> bool:
        """Tell whether another node has the same claimed endpoint."""
        return (self.ip, self.port) == (other.ip, other.port)


@lru_cache(maxsize=32_768)
def _shared_number(node_id: NodeId) -> int:
    """Read an id as a number; tables of one process share it, which is a tenth of their size."""
    return int.from_bytes(node_id, "big")


class Bucket(KBucket):  # type: ignore[misc]  # the package ships no types
    """A k-bucket, least recently seen first, with up to k replacements, newest last."""

    nodes: dict[bytes, Entry]
    replacement_nodes: dict[bytes, Entry]
    last_updated: float

    def __init__(self, lower: int, upper: int, k: int, groups: Counter[bytes]) -> None:
        """Make an empty one; it counts its contacts' subnets in the table's ``groups``."""
        super().__init__(lower, upper, k, replacementNodeFactor=1)
        # Plain dicts keep the order too, in half the memory of the parent's.
        self.nodes, self.replacement_nodes = {}, {}
        self.last_updated = -math.inf
        self.last_target: int | None = None
        self._groups = groups

    def touch_last_updated(self) -> None:
        """Do nothing: the parent reads a clock here; :meth:`Table.refreshed` gets the time."""

    def split(self) -> tuple[Bucket, Bucket]:
        """Return the two halves; each holds its share of contacts and replacements."""
        middle = (self.range[0] + self.range[1]) // 2
        counted_already: Counter[bytes] = Counter()
        halves = (
            Bucket(self.range[0], middle, self.ksize, counted_already),
            Bucket(middle + 1, self.range[1], self.ksize, counted_already),
        )
        for entry in self.entries():
            halves[entry.long_id > middle].add_node(entry)
        for half in halves:
            # A lookup refreshes only the half of its target. So a node that joins with a lookup of
            # its own id still has to refresh the far buckets.
            target = self.last_target
            if target is None or half.range[0] <= target <= half.range[1]:
                half.last_updated, half.last_target = self.last_updated, target
            half._groups = self._groups
        return halves

    def add_node(self, node: Entry) -> bool:
        """Add ``node`` at the tail; return False if the bucket is full (it is a replacement)."""
        outgoing = self.entry(node.id)
        fits = node.id in self.nodes or len(self.nodes) < self.ksize
        kept = self.nodes if fits else self.replacement_nodes
        if fits or outgoing is not None:
            self.nodes.pop(node.id, None)
            self.replacement_nodes.pop(node.id, None)
        elif len(kept) >= self.max_replacement_nodes:
            outgoing = kept.pop(next(iter(kept)))
        kept[node.id] = node
        self._groups[node.group] += 1
        self._uncount(outgoing)
        return fits

    def remove_node(self, node: Node) -> None:
        """Remove a contact or replacement; the newest replacement replaces a contact."""
        self._uncount(self.entry(node.id))
        super().remove_node(node)

    def entry(self, node_id: bytes) -> Entry | None:
        """Return a contact or replacement."""
        return self.nodes.get(node_id) or self.replacement_nodes.get(node_id)

    def _uncount(self, entry: Entry | None) -> None:
        if entry is None:
            return
        self._groups[entry.group] -= 1
        if not self._groups[entry.group]:
            del self._groups[entry.group]

    def nearest_to(self, goal: int) -> int:
        """Return the distance from ``goal`` to the nearest id that can be in here."""
        lower, upper = self.range
        nearest: int = (lower ^ goal) & ~(upper - lower)
        return nearest

    def entries(self) -> Iterator[Entry]:
        """Yield contacts and replacements."""
        yield from self.nodes.values()
        yield from self.replacement_nodes.values()


# Large: it replaces a class of the kademlia package, with that class's methods.
class Table(RoutingTable):  # type: ignore[misc]  # the package ships no types
    """The contacts whose identity and endpoint are proved, in k-buckets.

    Owned by the DHT core. Bounded by 160 buckets of k contacts and k replacements each.
    """

    buckets: list[Bucket]

    def __init__(self, own_id: NodeId, settings: DhtSettings, rng: Random) -> None:
        self._settings = settings
        self._rng = rng
        super().__init__(None, settings.k, Node(own_id))

    # Corrected methods of the parent class.

    def flush(self) -> None:
        """Forget every contact."""
        self._groups: Counter[bytes] = Counter()
        self.buckets = [Bucket(0, _LAST_ID, self.ksize, self._groups)]
        self._upper_ends = [_LAST_ID]

    def split_bucket(self, index: int) -> None:
        """Replace a bucket by its two halves."""
        super().split_bucket(index)
        self._upper_ends.insert(index, self.buckets[index].range[1])

    def get_bucket_for(self, node: Node) -> int:
        """Return the index of the one bucket whose range holds the node."""
        return bisect_left(self._upper_ends, node.long_id)

    def add_contact(self, node: Entry) -> None:
        """Add a node. A full bucket of our own id is split; elsewhere it is a replacement."""
        while True:
            index = self.get_bucket_for(node)
            bucket = self.buckets[index]
            if bucket.add_node(node):
                return
            if not bucket.has_in_range(self.node):
                return
            self.split_bucket(index)

    def find_neighbors(
        self, node: Node, k: int | None = None, exclude: Node | None = None
    ) -> list[Entry]:
        """Return the k closest contacts of the whole table, closest first."""
        candidates = [
            entry
            for bucket in self.buckets
            for entry in bucket.nodes.values()
            if entry.id != node.id and not (exclude and entry.same_home_as(exclude))
        ]
        return _nearest(candidates, node.long_id, k or self.ksize)

    def lonely_buckets(self, now: float) -> list[Bucket]:
        """Return the buckets that our lookups did not refresh for a refresh interval."""
        since = now - self._settings.refresh_interval_s
        return [bucket for bucket in self.buckets if bucket.last_updated <= since]

    # Methods for the core.

    def seen(self, contact: Contact, now: float) -> Contact | None:
        """Record that a contact has just proved its key and its endpoint.

        Returns:
            The least recently seen contact of a full bucket that should be pinged before
            the new one may replace it, or None.
        """
        return None if self.renewed(contact, now) else self.file(contact, now)

    def file(self, contact: Contact, now: float) -> Contact | None:
        """Do the same as :meth:`seen` for a contact that is not in the table with this endpoint."""
        if contact.node_id == self.node.id:
            return None
        bucket = self._bucket(contact.node_id)
        if self._renewed_replacement(bucket, contact, now):
            return self._doubtful_head(bucket, now)
        group = source_group(contact.endpoint, limit_private=self._settings.limit_private_prefixes)
        entry = Entry(contact, group, now)
        if not self._subnet_has_room(entry):
            return None
        self.add_contact(entry)
        bucket = self.buckets[self.get_bucket_for(entry)]
        is_waiting = entry.id in bucket.replacement_nodes
        return self._doubtful_head(bucket, now) if is_waiting else None

    def renewed(self, contact: Contact, now: float) -> bool:
        """Move a contact to the tail of its bucket if it is in the table with this endpoint."""
        node_id = contact.node_id
        nodes = self.buckets[bisect_left(self._upper_ends, int.from_bytes(node_id, "big"))].nodes
        known = nodes.get(node_id)
        if known is None or known.contact.endpoint != contact.endpoint:
            return False
        known.last_seen, known.failures = now, 0
        nodes[node_id] = nodes.pop(node_id)
        return True

    def _renewed_replacement(self, bucket: Bucket, contact: Contact, now: float) -> bool:
        """Move a replacement to the tail if it is known with this endpoint; most requesters are.

        In this node's own bucket, which may be split, a replacement can become a contact.
        """
        waiting = bucket.replacement_nodes
        known = waiting.get(contact.node_id)
        if known is None or known.contact.endpoint != contact.endpoint:
            return False
        if bucket.has_in_range(self.node):
            return False
        known.last_seen, known.failures = now, 0
        waiting[known.id] = waiting.pop(known.id)
        return True

    def failed(self, contact: Contact) -> None:
        """Record that a contact did not answer; remove it if it has a replacement or fails again.

        Only failures at the endpoint that it had proved count, because any node can claim a
        false endpoint for it.
        """
        bucket = self._bucket(contact.node_id)
        entry = bucket.entry(contact.node_id)
        if entry is None or entry.contact.endpoint != contact.endpoint:
            return
        entry.failures += 1
        if bucket.replacement_nodes or entry.failures >= self._settings.contact_max_failures:
            bucket.remove_node(entry)

    def remove(self, node_id: NodeId) -> None:
        """Remove a contact; the most recently seen replacement replaces it."""
        self.remove_contact(Node(node_id))

    def get(self, node_id: NodeId) -> Contact | None:
        """Return a contact, or None."""
        entry = self._bucket(node_id).nodes.get(node_id)
        return entry.contact if entry is not None else None

    def closest(
        self, target: NodeId, count: int, *, exclude: NodeId | None = None, alive: bool = False
    ) -> list[Contact]:
        """Return the contacts closest to ``target``, including ``target``, closest first.

        With ``alive``, contacts whose last call failed are omitted, as in answers to others.
        """
        goal = int.from_bytes(target, "big")
        found: list[Contact] = []
        # Buckets are subtrees, so all contacts of one are nearer than those of a farther one.
        for bucket in self._nearest_first(goal):
            near = [
                (entry.long_id ^ goal, entry)
                for entry in bucket.nodes.values()
                if entry.id != exclude and not (alive and entry.failures)
            ]
            near.sort()  # no two entries are equally far, so only distances are compared
            found += [entry.contact for _, entry in near]
            if len(found) >= count:
                break
        return found[:count]

    def _nearest_first(self, goal: int) -> Iterator[Bucket]:
        """Yield the buckets, first the one of ``goal``; often the first is sufficient."""
        buckets = self.buckets
        home = bisect_left(self._upper_ends, goal)
        yield buckets[home]
        others = [
            (bucket.nearest_to(goal), index)
            for index, bucket in enumerate(buckets)
            if index != home
        ]
        others.sort()
        for _, index in others:
            yield buckets[index]

    def refreshed(self, target: NodeId, now: float) -> None:
        """Record that one of our lookups refreshes the bucket of ``target``."""
        bucket = self._bucket(target)
        bucket.last_updated = now
        bucket.last_target = int.from_bytes(target, "big")

    def refresh_target(self, now: float) -> NodeId | None:
        """Return a random id in a bucket that is due for a refresh, or None."""
        lonely = self.lonely_buckets(now)
        if not lonely:
            return None
        number = self._rng.randint(*self._rng.choice(lonely).range)
        return NodeId(number.to_bytes(NODE_ID_BYTES, "big"))

    def __len__(self) -> int:
        return sum([len(bucket.nodes) for bucket in self.buckets])

    def subnets(self) -> dict[bytes, int]:
        """Return the number of contacts and replacements of each /24 or /48."""
        return dict(self._groups)

    def has_fewer_than(self, count: int) -> bool:
        """Tell whether there are fewer contacts; ``len`` would read all buckets."""
        for bucket in self.buckets:
            count -= len(bucket.nodes)
            if count <= 0:
                return False
        return True

    def __iter__(self) -> Iterator[Contact]:
        for bucket in self.buckets:
            for entry in bucket.nodes.values():
                yield entry.contact

    def _bucket(self, node_id: NodeId) -> Bucket:
        return self.buckets[bisect_left(self._upper_ends, int.from_bytes(node_id, "big"))]

    def _doubtful_head(self, bucket: Bucket, now: float) -> Contact | None:
        head = next(iter(bucket.nodes.values()))
        if now - head.last_seen < self._settings.liveness_interval_s:
            return None
        return head.contact

    def _subnet_has_room(self, entry: Entry) -> bool:
        """Tell whether the limits per subnet of bucket and table permit this contact."""
        in_table = self._groups.get(entry.group, 0)
        if not in_table:
            return self._provider_has_room(entry)
        bucket = self.buckets[self.get_bucket_for(entry)]
        known = bucket.entry(entry.id)
        if known is not None and known.group == entry.group:
            return True  # it is in the table already
        in_bucket = sum(other.group == entry.group for other in bucket.entries())
        return (
            in_bucket < self._settings.bucket_prefix_limit
            and in_table < self._settings.table_prefix_limit
            and self._provider_has_room(entry)
        )

    def _provider_has_room(self, entry: Entry) -> bool:
        """Tell whether the limit of the bucket per IPv6 /32 permits this contact.

        A /32 has 65,536 subnets of /48, so limits per subnet would let one provider fill a bucket.
        A /32 gets half of the contacts. An IPv4 /16 has only 256 subnets, which cost more.
        """
        if ":" not in entry.ip or len(entry.group) != IPV6_SUBNET_BYTES:
            return True
        provider = entry.group[:_IPV6_PROVIDER_BYTES]
        bucket = self.buckets[self.get_bucket_for(entry)]
        others = (each for each in bucket.entries() if each.id != entry.id)
        held = sum(other.group.startswith(provider) and ":" in other.ip for other in others)
        return held < max(self._settings.bucket_prefix_limit, self._settings.k // 2)


def _nearest(entries: list[Entry], goal: int, count: int) -> list[Entry]:
    return sorted(entries, key=lambda entry: entry.long_id ^ goal)[:count]
