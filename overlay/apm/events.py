"""Events and reports of Anonymous Paths Management."""

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
    "CircuitSized",
    "CircuitStandsBy",
    "CircuitState",
    "ExitCircuitClosed",
    "ExitCircuitOpened",
    "ExitCircuitSized",
    "LinkSilent",
    "LinkWanted",
    "RelayReport",
]


class CircuitEnd(enum.Enum):
    """Why an own circuit ended."""

    CLOSED = "closed by its user"
    EXPIRED = "its lifetime is over"
    SHUTDOWN = "the node stops"
    UNANSWERED = "the exit does not answer"
    TORN_DOWN = "a Mix-node of the path ended it"
    WITHDRAWN = "the exit cannot reach the outside any more"
    LINK_LOST = "the link to the first Mix-node is gone"
    NOT_REKEYED = "a Mix-node did not agree to new keys"


class CircuitState(enum.Enum):
    """The state of an own circuit."""

    WAITING_FOR_LINK = "waiting for the first link"
    AWAITING_CONFIRMATION = "awaiting confirmation"
    OPEN = "open"
    STANDBY = "standby"


class ApmDrop(enum.Enum):
    """Why a control packet was dropped, as a class for counters."""

    MALFORMED = "malformed"
    NOT_AUTHENTIC = "not authentic"
    REPLAYED = "replayed or expired"
    LIMIT = "a limit held"
    UNKNOWN_CIRCUIT = "no such circuit"
    UNEXPECTED = "unexpected in this state"
    LATE = "an answer to what was answered before"
    """A request is repeated until an answer arrives, so a slow network delivers several answers."""


@dataclass(frozen=True, slots=True)
class LinkWanted:
    """A request to open a link to this peer; the shell calls ``link_lost`` if that fails."""

    peer: LinkPeer


@dataclass(frozen=True, slots=True)
class LinkSilent:
    """A neighbour does not acknowledge signalling; it may have lost its SAs of the link."""

    overlay_address: OverlayAddress


@dataclass(frozen=True, slots=True)
class CircuitOpened:
    """An own circuit is open and carries packets from its inner addresses to its destination."""

    circuit: int
    inner_addresses: InnerAddresses
    destination: IpNetwork


@dataclass(frozen=True, slots=True)
class CircuitFailed:
    """An own circuit did not open, and all its state was removed."""

    circuit: int
    error: PathError


@dataclass(frozen=True, slots=True)
class CircuitClosed:
    """An own circuit ended without a failure."""

    circuit: int
    reason: CircuitEnd


@dataclass(frozen=True, slots=True)
class CircuitLost:
    """An open own circuit was lost.

    ``silent_hop`` is the position of the first hop that does not answer, None if unknown.
    """

    circuit: int
    reason: CircuitEnd
    silent_hop: int | None = None


@dataclass(frozen=True, slots=True)
class CircuitStandsBy:
    """An own standby circuit was confirmed and is ready to take over."""

    circuit: int


@dataclass(frozen=True, slots=True)
class CircuitMoved:
    """A standby circuit took over the inner addresses of an own circuit, which has ended.

    ``silent_hop`` is a position in the circuit that ended, as in :class:`CircuitLost`.
    """

    circuit: int
    to: int
    reason: CircuitEnd
    silent_hop: int | None = None


@dataclass(frozen=True, slots=True)
class CircuitSized:
    """It was confirmed or refuted that an own circuit carries large packets.

    :class:`CircuitReport` has the size.
    """

    circuit: int


@dataclass(frozen=True, slots=True)
class ExitCircuitOpened:
    """This node is the exit of a circuit and forwards packets from these inner addresses."""

    inner_addresses: InnerAddresses


@dataclass(frozen=True, slots=True)
class ExitCircuitClosed:
    """A circuit is closed of which this node was the exit.

    The node can now remove the connection tracking state of these inner addresses.
    """

    inner_addresses: InnerAddresses


@dataclass(frozen=True, slots=True)
class ExitCircuitSized:
    """The circuit with these inner addresses carries answers of up to ``packet_bytes`` bytes.

    With 0, only the usual size is known to pass.
    """

    inner_addresses: InnerAddresses
    packet_bytes: int


CircuitEvent = (
    CircuitOpened | CircuitFailed | CircuitLost | CircuitClosed | CircuitMoved | CircuitStandsBy
)
"""The events of own circuits."""

ApmEvent = (
    LinkWanted
    | LinkSilent
    | CircuitOpened
    | CircuitFailed
    | CircuitClosed
    | CircuitLost
    | CircuitMoved
    | CircuitStandsBy
    | CircuitSized
    | ExitCircuitOpened
    | ExitCircuitClosed
    | ExitCircuitSized
)


@dataclass(frozen=True, slots=True)
class CircuitReport:
    """One own circuit, for the user. It must not be logged, because it reveals the path.

    ``opened_at`` is in Unix seconds. ``rtt_s`` is the smoothed round-trip time to the exit in
    seconds. ``packet_bytes`` is the size of inner packets that was proved to pass in both
    directions. All three are None as long as they are unknown.
    """

    number: int
    state: CircuitState
    hops: tuple[OverlayAddress, ...]
    destination: IpNetwork
    inner_addresses: InnerAddresses | None = None
    rtt_s: float | None = None
    opened_at: float | None = None
    packet_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class RelayReport:
    """Numbers of the circuits that this node carries for other nodes, and of drops."""

    relayed: int
    exits: int
    waiting: int
    closing: int
    remembered_onions: int
    drops: Mapping[ApmDrop, int]
