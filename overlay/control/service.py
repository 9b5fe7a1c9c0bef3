"""Requests to a running node, its reports, and the interface that answers them.

Reports contain addresses and ids without redaction, because only the operator of the node gets
them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Protocol

from overlay.addresses import IpNetwork, NodeId, OverlayAddress

__all__ = [
    "MAX_DESTINATIONS",
    "ClosePathRequest",
    "ControlService",
    "HopReport",
    "OpenPathsRequest",
    "PathReport",
    "PathsRequest",
    "PeerReport",
    "PeersRequest",
    "Request",
    "StatusReport",
    "StatusRequest",
    "StopReport",
    "StopRequest",
]

MAX_DESTINATIONS: Final = 64
"""Maximum number of destinations of one request; each gets a path of its own."""


@dataclass(frozen=True, slots=True)
class StatusRequest:
    """Return the status of the node."""


@dataclass(frozen=True, slots=True)
class PeersRequest:
    """Return the Mix-nodes of the topology table."""


@dataclass(frozen=True, slots=True)
class PathsRequest:
    """Return the paths that the user has opened."""


@dataclass(frozen=True, slots=True)
class OpenPathsRequest:
    """Carry packets to 1 to ``MAX_DESTINATIONS`` destinations, each through an anonymous circuit.

    The kill switch covers all destinations before the first circuit is set up.

    If a field is None, the configuration decides. ``via`` has the hops that the user chose, first
    hop first and at most ``MAX_HOPS``; each is a node id (20 bytes) or an overlay address (16
    bytes). ``both_versions`` blocks the IP version that no destination has, except for local
    addresses (``overlay.paths.ip_versions``), while the paths exist. If the destinations have
    both versions, none is blocked.
    """

    destinations: tuple[IpNetwork, ...]
    hops: int | None = None
    strategy: str | None = None
    via: tuple[NodeId | OverlayAddress, ...] = ()
    both_versions: bool | None = None


@dataclass(frozen=True, slots=True)
class ClosePathRequest:
    """Close one path by its number or its exact destination; None closes all.

    Closing all also unblocks destinations that an earlier process left blocked.
    """

    path: int | IpNetwork | None


@dataclass(frozen=True, slots=True)
class StopRequest:
    """Stop the node. Destinations stay blocked unless ``release`` asks to close all paths."""

    release: bool = False


Request = (
    StatusRequest | PeersRequest | PathsRequest | OpenPathsRequest | ClosePathRequest | StopRequest
)


@dataclass(frozen=True, slots=True)
class StatusReport:
    """The status of the node.

    Attributes:
        node_id: 40 hexadecimal digits.
        overlay_address: IPv6 text.
        uptime_s: seconds since the node was up.
        backend: name of the IPsec backend in use.
        backend_reason: why this backend was chosen, as a clause.
        roles: "relay", "exit", both or none.
        listen: UDP endpoints, as text.
        joined: whether at least one other node of the overlay has answered.
        contacts: nodes in the Kademlia routing table.
        mix_nodes: verified descriptors in the Mix-nodes Topology Table.
        exits: number of those that are exits.
        links: links that are up.
        link_bytes: largest UDP payload in bytes that path MTU probes found for each link,
            smallest first; links without a result are left out.
        circuits_own: circuits of which this node is the source.
        circuits_relayed: circuits of other nodes of which this node is a relay.
        circuits_exit: circuits of other nodes of which this node is the exit.
        counters: packets and bytes since the start, by name.
        drops: dropped packets, by reason.
        protection: names of the parts of the kill switch that are missing in the kernel now;
            empty if all parts are in force.
        protected: destinations whose packets leave through a circuit or not at all.
        tfc: name of the traffic flow confidentiality strategy.
        forwarding: name of the forwarding rules.
        suspect_regions: number of regions of the DHT that look eclipsed; the Mix-nodes known
            from them are doubtful.
        exit_problems: why this node, configured as an exit, is no exit now, or is none for one
            IP version; each text says what to do.
        endpoints: UDP endpoints that this node announces to others, as text.
        reachability: result of tests by other nodes for each of these endpoints: "untested",
            "reachable" or "not reachable".
        bootstrap: UDP endpoints through which the node joins, as text.
        network_problems: why other nodes cannot reach this node, or only some of them can.
        blocked_versions: IP versions ("IPv4", "IPv6") that paths block as a whole, except for
            local addresses.
        unprotected: destinations or IP versions that should be blocked or carried, but to which
            packets leave in the clear, because the kill switch cannot be installed.
        unprotected_reason: the reason of ``unprotected``, as a sentence.
        verdict: what works, what does not and what to do, in a few sentences.
        works: whether ``verdict`` names no problem.
    """

    version: str
    node_id: str
    overlay_address: str
    network_id: str
    uptime_s: float
    backend: str
    backend_reason: str
    roles: tuple[str, ...]
    listen: tuple[str, ...]
    joined: bool
    contacts: int
    mix_nodes: int
    exits: int
    links: int
    circuits_own: int
    circuits_relayed: int
    circuits_exit: int
    counters: dict[str, int]
    drops: dict[str, int]
    protected: tuple[str, ...]
    protection: tuple[str, ...]
    tfc: str
    forwarding: str
    suspect_regions: int = 0
    exit_problems: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    network_problems: tuple[str, ...] = ()
    blocked_versions: tuple[str, ...] = ()
    unprotected: tuple[str, ...] = ()
    unprotected_reason: str = ""
    verdict: str = ""
    works: bool = True
    bootstrap: tuple[str, ...] = ()
    link_bytes: tuple[int, ...] = ()
    reachability: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PeerReport:
    """One Mix-node of the topology table.

    ``exit_policy`` has one text for each rule and is empty if the node is no exit.
    ``expires_in_s`` is the time in seconds for which its descriptor stays valid. ``linked`` tells
    whether a link to it is up. ``heard_s`` is the time in seconds since its last authentic packet
    or message. It is None if there was none, or if the kernel does not report its packets and no
    answer came. ``link_bytes`` is the largest UDP payload in bytes that path MTU probes found for
    the link. It is None without a link or a result, and always None with the kernel backend,
    which does not probe.
    """

    node_id: str
    overlay_address: str
    endpoints: tuple[str, ...]
    roles: tuple[str, ...]
    exit_policy: tuple[str, ...]
    bandwidth_kbit: int
    expires_in_s: float
    linked: bool
    heard_s: float | None = None
    link_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class HopReport:
    """One Mix-node of a path."""

    node_id: str
    overlay_address: str


@dataclass(frozen=True, slots=True)
class PathReport:
    """One path that the user asked for.

    ``number`` is local to this process. ``state`` is a word for the user ("opening", "open",
    "rebuilding", "closing"). ``hops`` has the first hop first and is empty while there is no
    circuit. ``rtt_ms`` is the round-trip time to the exit, None until it is measured. ``mtu`` is
    the largest inner packet in bytes.

    ``link_bytes`` is the largest UDP payload in bytes that the first link carries.
    ``whole_bytes`` is the largest inner packet in bytes that the link carries in one datagram;
    larger packets are cut into pieces. Both are None until path MTU probes have a result.

    ``both_versions`` tells whether this path blocks the other IP version. ``permanent`` tells
    whether the configuration lists the destination, so that the path is opened at each start.
    ``stays_open`` has one sentence for each way to the same server that the path does not cover.
    ``unprotected`` says why packets to the destination can leave in the clear now. It is empty if
    they leave through the circuit or not at all.

    ``trouble`` is a clause that says why the last circuit ended or could not be set up; it is
    empty once the path is open. ``attempts`` counts consecutive circuits that could not be set
    up. ``next_try_s`` is the time in seconds until the next attempt, None if none is scheduled.
    ``standby_ready`` tells whether a standby circuit can take over, and ``takeovers`` counts how
    often one did.
    """

    number: int
    destination: str
    state: str
    hops: tuple[HopReport, ...]
    inner_addresses: tuple[str, ...]
    rtt_ms: float | None
    age_s: float
    strategy: str
    mtu: int
    both_versions: bool = False
    permanent: bool = False
    stays_open: tuple[str, ...] = ()
    unprotected: str = ""
    trouble: str = ""
    attempts: int = 0
    next_try_s: float | None = None
    standby_ready: bool = False
    takeovers: int = 0
    link_bytes: int | None = None
    whole_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class StopReport:
    """What stays blocked after the node has stopped.

    ``blocked`` counts destinations that stay blocked. ``released`` counts destinations whose
    paths were closed because of the request. ``permanent`` counts released destinations that are
    blocked again at the next start, because the configuration lists them. ``unprotected`` counts
    destinations that were not blocked when the node stopped, because the kill switch could not be
    installed. ``unblocked_versions`` has IP versions that are no longer blocked as a whole.
    """

    blocked: int
    released: int
    permanent: int
    unprotected: int = 0
    unblocked_versions: tuple[str, ...] = ()


class ControlService(Protocol):
    """The interface of a node for its operator.

    If a method raises an ``OverlayError``, the client gets its message.
    """

    def status(self) -> StatusReport:
        """Return the status of the node."""
        ...

    def peers(self) -> list[PeerReport]:
        """Return the Mix-nodes of the topology table."""
        ...

    def paths(self) -> list[PathReport]:
        """Return the paths that the user has opened."""
        ...

    async def open_paths(self, request: OpenPathsRequest) -> list[PathReport]:
        """Open a path to each destination, and return their reports when all carry packets.

        The call is cancelled if the client closes the connection or the request times out. The
        destinations then stay blocked, and the node continues to open the paths.
        """
        ...

    async def close_path(self, which: int | IpNetwork | None) -> int:
        """Close one path, or all (None); return how many were closed."""
        ...

    async def leave(self, *, release: bool) -> StopReport:
        """Return what stays blocked when the node stops; if ``release``, close all paths first."""
        ...

    def stop(self) -> None:
        """Begin to stop the node, and return immediately."""
        ...
