"""What a path selection strategy is given and what it must return."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Protocol

from overlay.addresses import IpAddress, NodeId
from overlay.dht.descriptor import MixDescriptor

__all__ = ["MixPath", "PathRequest", "PathSelector", "TopologyView"]


@dataclass(frozen=True, slots=True)
class PathRequest:
    """What the user wants of an anonymous path.

    ``via`` names the hops that the user fixed, first hop first; ``hops`` counts the
    Mix-nodes between source and destination, the exit included. ``onion_suite`` and
    ``esp_suite`` must be spoken by every hop. ``source`` is the asking node, which is never
    a hop; ``avoid`` are nodes that failed lately. ``versions`` are the IP versions over which
    the source reaches others: the first hop needs an endpoint of one of them, and each later
    hop one of a version that the hop before it has. ``exit`` names the last hop, None if any
    exit may be it.
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


@dataclass(frozen=True, slots=True)
class MixPath:
    """The hops of one circuit, first hop first; the last one is the exit."""

    hops: tuple[MixDescriptor, ...]

    def __len__(self) -> int:
        return len(self.hops)

    @property
    def exit(self) -> MixDescriptor:
        """The last hop, which sends the packets on to their destination."""
        return self.hops[-1]


class TopologyView(Protocol):
    """A read-only view of the Mix-nodes Topology Table: verified, unexpired descriptors."""

    def __iter__(self) -> Iterator[MixDescriptor]:
        """Yield every descriptor, in an order that depends on nothing but the table."""
        ...

    def __len__(self) -> int:
        """Return how many there are."""
        ...

    def get(self, node_id: NodeId) -> MixDescriptor | None:
        """Return the descriptor of one node, from the table alone (never from the network)."""
        ...


class PathSelector(Protocol):
    """Choose the Mix-nodes of one anonymous circuit (paper, section 2.1)."""

    def select(self, request: PathRequest, table: TopologyView, rng: Random) -> MixPath:
        """Return the hops, first hop first.

        Raises:
            NoSuitablePath: its report counts the Mix-nodes that each constraint removed.
        """
        ...
