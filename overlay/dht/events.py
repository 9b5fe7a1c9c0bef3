"""What the DHT tells its owner, and what it counts instead of logging."""

from __future__ import annotations

import enum
from collections.abc import Mapping
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
    """A crawl brought a verified descriptor (perhaps one that is known already).

    ``answered`` tells that its owner gave it, so is there; else others held it for the owner.
    """

    descriptor: MixDescriptor
    answered: bool


@dataclass(frozen=True, slots=True)
class DescriptorRenewed:
    """A node brought its newer descriptor to be stored here; it may not be known at all yet."""

    descriptor: MixDescriptor


@dataclass(frozen=True, slots=True)
class NodeLeft:
    """A node said goodbye under its own signature."""

    node_id: NodeId


@dataclass(frozen=True, slots=True)
class CrawlFinished:
    """A crawl that began at ``started_at`` is over; it brought so many distinct descriptors.

    ``exhaustive`` tells that nobody was left out; ``unanswered`` holds who did not answer, and
    where it was asked (None: not at all). Strangers supply ids and endpoints both.
    """

    descriptors: int
    started_at: float
    exhaustive: bool = True
    unanswered: Mapping[NodeId, Endpoint | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EclipseSuspected:
    """So many nodes as a lookup found lie that close with a probability of ``chance``.

    ``own_region`` tells that they surround this node's own id.
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


@dataclass(slots=True)
class DhtActivity:
    """What the DHT did since its start.

    A lookup succeeded if it closed within its budgets with somebody found.
    """

    lookups: int = 0
    lookups_succeeded: int = 0
    crawls: int = 0
    eclipses_suspected: int = 0


class DhtCount(enum.StrEnum):
    """What was dropped or declined, and why."""

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
