"""What Anonymous Paths Management reports, and the read-only views for users."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from overlay.addresses import IpNetwork, OverlayAddress
from overlay.apm.inner_addresses import InnerAddresses
from overlay.errors import PathError
from overlay.link.events import LinkPeer

__all__ = [
    "ApmDrop",
    "ApmEvent",
    "CircuitClosed",
    "CircuitEnd",
    "CircuitEvent",
    "CircuitFailed",
    "CircuitLost",
    "CircuitMoved",
    "CircuitOpened",
    "CircuitReport",
    "CircuitStandsBy",
    "CircuitState",
    "ExitCircuitClosed",
    "ExitCircuitOpened",
    "LinkSilent",
    "LinkWanted",
    "RelayReport",
]


class CircuitEnd(enum.Enum):
    """Why a circuit of ours ended."""

    CLOSED = "closed by its user"
    EXPIRED = "its lifetime is over"
    SHUTDOWN = "the node stops"
    UNANSWERED = "the exit does not answer"
    TORN_DOWN = "a Mix-node of the path ended it"
    WITHDRAWN = "the exit cannot reach the outside any more"
    LINK_LOST = "the link to the first Mix-node is gone"
    NOT_REKEYED = "a Mix-node did not agree to new keys"


class CircuitState(enum.Enum):
    """Where a circuit of ours stands."""

    WAITING_FOR_LINK = "waiting for the first link"
    AWAITING_CONFIRMATION = "awaiting confirmation"
    OPEN = "open"
    STANDBY = "standby"


class ApmDrop(enum.Enum):
    """Why a control packet was dropped; coarse, for counters alone."""

    MALFORMED = "malformed"
    NOT_AUTHENTIC = "not authentic"
    REPLAYED = "replayed or expired"
    LIMIT = "a limit held"
    UNKNOWN_CIRCUIT = "no such circuit"
    UNEXPECTED = "unexpected in this state"
    LATE = "an answer to what was answered before"
    """Requests are repeated until an answer comes, so a slow network brings more than one."""


@dataclass(frozen=True, slots=True)
class LinkWanted:
    """Open a link to this peer, or say with ``link_lost`` that it cannot be had."""

    peer: LinkPeer


@dataclass(frozen=True, slots=True)
class LinkSilent:
    """A neighbour does not acknowledge signalling: its end of the link may be gone."""

    overlay_address: OverlayAddress


@dataclass(frozen=True, slots=True)
class CircuitOpened:
    """A circuit of ours carries packets from its inner addresses to its destination."""

    circuit: int
    inner_addresses: InnerAddresses
    destination: IpNetwork


@dataclass(frozen=True, slots=True)
class CircuitFailed:
    """A circuit of ours did not open; nothing of it is left."""

    circuit: int
    error: PathError


@dataclass(frozen=True, slots=True)
class CircuitClosed:
    """A circuit of ours ended as it should."""

    circuit: int
    reason: CircuitEnd


@dataclass(frozen=True, slots=True)
class CircuitLost:
    """An open circuit of ours broke.

    ``silent_hop`` is the position of the first hop that does not answer, None if the reason does
    not tell.
    """

    circuit: int
    reason: CircuitEnd
    silent_hop: int | None = None


@dataclass(frozen=True, slots=True)
class CircuitStandsBy:
    """A circuit of ours was confirmed and is ready to take over."""

    circuit: int


@dataclass(frozen=True, slots=True)
class CircuitMoved:
    """A standby circuit took over the inner addresses of one of ours, which has ended.

    ``silent_hop`` is that of :class:`CircuitLost`, in the circuit that ended.
    """

    circuit: int
    to: int
    reason: CircuitEnd
    silent_hop: int | None = None


@dataclass(frozen=True, slots=True)
class ExitCircuitOpened:
    """We are the exit of a circuit: forward what comes from these inner addresses."""

    inner_addresses: InnerAddresses


@dataclass(frozen=True, slots=True)
class ExitCircuitClosed:
    """We are its exit no more, and its last packets have passed: forget what they were."""

    inner_addresses: InnerAddresses


CircuitEvent = (
    CircuitOpened | CircuitFailed | CircuitLost | CircuitClosed | CircuitMoved | CircuitStandsBy
)
"""What becomes of a circuit of ours."""

ApmEvent = (
    LinkWanted
    | LinkSilent
    | CircuitOpened
    | CircuitFailed
    | CircuitClosed
    | CircuitLost
    | CircuitMoved
    | CircuitStandsBy
    | ExitCircuitOpened
    | ExitCircuitClosed
)


@dataclass(frozen=True, slots=True)
class CircuitReport:
    """One circuit of ours, for the user who asked for it (never for a log).

    ``opened_at`` is in Unix seconds; ``rtt_s`` is the last round trip to the exit. Both are
    None until there is one.
    """

    number: int
    state: CircuitState
    hops: tuple[OverlayAddress, ...]
    destination: IpNetwork
    inner_addresses: InnerAddresses | None = None
    rtt_s: float | None = None
    opened_at: float | None = None


@dataclass(frozen=True, slots=True)
class RelayReport:
    """What this node does for others: counts alone."""

    relayed: int
    exits: int
    waiting: int
    closing: int
    remembered_onions: int
    drops: Mapping[ApmDrop, int]
