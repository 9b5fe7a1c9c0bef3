"""Events that the DHT reports to its owner, and counters that it has instead of logs."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from overlay.addresses import Endpoint, NodeId
from overlay.dht.descriptor import MixDescriptor

__all__ = [
    "BootstrapUnreachable",
    "CrawlFinished",
    "DescriptorFound",
    "DescriptorRenewed",
    "DhtActivity",
    "DhtCount",
    "DhtEvent",
    "EclipseSuspected",
    "EventQueue",
    "Joined",
    "NodeLeft",
    "ProbeWanted",
    "ReachChanged",
    "Standing",
]


@dataclass(frozen=True, slots=True)
class Joined:
    """The self-lookup is over and the routing table holds this many contacts."""

    contacts: int


@dataclass(frozen=True, slots=True)
class BootstrapUnreachable:
    """A bootstrap endpoint did not answer in this round; another round follows."""

    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class DescriptorFound:
    """A crawl found a verified descriptor, which may be known already.

    ``answered`` is True if its owner sent it, so the owner is on line; otherwise a holder sent it.
    """

    descriptor: MixDescriptor
    answered: bool


@dataclass(frozen=True, slots=True)
class DescriptorRenewed:
    """A node stored its newer descriptor here; the node may be unknown so far."""

    descriptor: MixDescriptor


@dataclass(frozen=True, slots=True)
class NodeLeft:
    """A node sent a signed LEAVE."""

    node_id: NodeId


@dataclass(frozen=True, slots=True)
class CrawlFinished:
    """A crawl that began at ``started_at`` has ended, with the number of its descriptors.

    ``exhaustive`` is True if every known node was asked. ``unanswered`` has the nodes without an
    answer and the asked endpoints (None: not asked). Both may be invented by other nodes.
    """

    descriptors: int
    started_at: float
    exhaustive: bool = True
    unanswered: Mapping[NodeId, Endpoint | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EclipseSuspected:
    """The nodes that a lookup found are so close by chance only with probability ``chance``.

    ``own_region`` is True if they surround this node's own id.
    """

    chance: float
    own_region: bool


@dataclass(frozen=True, slots=True)
class ProbeWanted:
    """A datagram must leave for ``endpoint`` from a UDP port that has sent nothing before."""

    datagram: bytes
    endpoint: Endpoint


class Standing(enum.StrEnum):
    """What the tests of an endpoint have shown."""

    UNTESTED = "untested"
    REACHABLE = "reachable"
    UNREACHABLE = "not reachable"


@dataclass(frozen=True, slots=True)
class ReachChanged:
    """Tests by other nodes have shown something new about an endpoint of this node."""

    endpoint: Endpoint
    standing: Standing


DhtEvent = (
    Joined
    | BootstrapUnreachable
    | DescriptorFound
    | DescriptorRenewed
    | NodeLeft
    | CrawlFinished
    | EclipseSuspected
    | ProbeWanted
    | ReachChanged
)


class EventQueue:
    """Events in their order, until the owner of the core takes them after a step."""

    def __init__(self) -> None:
        self._events: list[DhtEvent] = []

    def append(self, event: DhtEvent) -> None:
        """Add an event."""
        self._events.append(event)

    def extend(self, events: Iterable[DhtEvent]) -> None:
        """Add several events."""
        self._events.extend(events)

    def take(self) -> list[DhtEvent]:
        """Return and remove the events."""
        if not self._events:
            return []
        events, self._events = self._events, []
        return events


@dataclass(slots=True)
class DhtActivity:
    """Counts of the DHT's activity since its start.

    A lookup succeeded if it was complete within its limits and found at least one node.
    """

    lookups: int = 0
    lookups_succeeded: int = 0
    crawls: int = 0
    eclipses_suspected: int = 0


class DhtCount(enum.StrEnum):
    """Reasons why the DHT dropped or refused something."""

    MALFORMED = "no message of ours"
    OTHER_NETWORK = "another network or version"
    REFUSED_ENDPOINT = "a source address that configuration refuses"
    CHALLENGED = "a request without a valid cookie"
    RATE_LIMITED = "too many requests of one subnet"
    WRONG_RESPONDER = "meant for another node or another address"
    NOT_AUTHENTIC = "a signature that does not fit"
    UNSOLICITED = "a reply that nobody asked for, or from another address"
    REFUSED_CONTACT = "a contact with an endpoint that configuration refuses"
    REFUSED_RECORD = "a record that does not verify, or for which there is no room"
    UNDER_COST = "an identity that costs less than this network asks"
    TIMED_OUT = "a call without an answer"
