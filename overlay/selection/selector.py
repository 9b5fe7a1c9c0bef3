"""The interface of path selection strategies: the request and the result."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Protocol

from overlay.addresses import IpAddress, IpNetwork, NodeId
from overlay.dht.descriptor import MixDescriptor

__all__ = ["MixPath", "PathRequest", "PathSelector", "TopologyView"]


@dataclass(frozen=True, slots=True)
class PathRequest:
    """A request for an anonymous path.

    ``hops`` is the number of Mix-nodes between source and destination, including the exit.
    ``via`` has the nodes that the user chose for the first hops, first hop first. Every hop must
    support ``onion_suite`` and ``esp_suite``. ``source`` is this node, which is never a hop, and
    ``avoid`` has nodes that failed recently. ``versions`` are the IP versions of the source: the
    first hop needs an endpoint of one of them, each later hop one of a version of the hop
    before. ``exit`` is the last hop, or None if any exit may be used. ``network`` is the whole
    destination, ``destination`` its first address; None stands for this address alone.
    """

    destination: IpAddress
    hops: int
    source: NodeId
    onion_suite: int
    esp_suite: int
    via: tuple[NodeId, ...] = ()
    avoid: frozenset[NodeId] = frozenset()
    versions: frozenset[int] = frozenset((4, 6))
    exit: NodeId | None = None
    network: IpNetwork | None = None


@dataclass(frozen=True, slots=True)
class MixPath:
    """The hops of one circuit, first hop first; the last one is the exit."""

    hops: tuple[MixDescriptor, ...]

    def __len__(self) -> int:
        return len(self.hops)

    @property
    def exit(self) -> MixDescriptor:
        """The last hop, which forwards packets to the destination."""
        return self.hops[-1]


class TopologyView(Protocol):
    """A read-only view of the Mix-nodes Topology Table: verified, unexpired descriptors."""

    def __iter__(self) -> Iterator[MixDescriptor]:
        """Yield every descriptor, in an order that depends only on the table."""
        ...

    def __len__(self) -> int:
        """Return the number of descriptors."""
        ...

    def get(self, node_id: NodeId) -> MixDescriptor | None:
        """Return the descriptor of a node from the table; the network is not asked."""
        ...


class PathSelector(Protocol):
    """Choose the Mix-nodes of one anonymous circuit (paper, section 2.1)."""

    def select(self, request: PathRequest, table: TopologyView, rng: Random) -> MixPath:
        """Return the hops, first hop first.

        Raises:
            NoSuitablePath: no path meets all constraints; it has the count of each constraint.
        """
        ...
