"""What can be asked of a running node, and what it answers.

Reports carry addresses and ids in clear: they go to the node's owner, who asked, and nowhere
else.
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
    "OpenPathRequest",
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
"""Of one request; each gets a path of its own."""


@dataclass(frozen=True, slots=True)
class StatusRequest:
    """How is the node?"""


@dataclass(frozen=True, slots=True)
class PeersRequest:
    """Which Mix-nodes does the topology table hold?"""


@dataclass(frozen=True, slots=True)
class PathsRequest:
    """Which paths did the user ask for?"""


@dataclass(frozen=True, slots=True)
class OpenPathRequest:
    """Carry packets to ``destination`` through an anonymous circuit.

    None stands for what the configuration says. ``via`` names hops that the user fixed, first
    hop first: a NodeId (20 bytes) or an overlay address (16 bytes) each, at most ``MAX_HOPS``.
    ``both_versions`` asks to block the other IP version while the path is there, except for
    local addresses (``overlay.node.ip_versions``).
    """

    destination: IpNetwork
    hops: int | None = None
    strategy: str | None = None
    via: tuple[NodeId | OverlayAddress, ...] = ()
    both_versions: bool | None = None


@dataclass(frozen=True, slots=True)
class OpenPathsRequest:
    """Open a path to each of several destinations; all are guarded before the first circuit.

    The other fields are those of :class:`OpenPathRequest`. With ``both_versions`` the IP
    version of which no destination is named is blocked; there is none if both are named.
    """

    destinations: tuple[IpNetwork, ...]
    hops: int | None = None
    strategy: str | None = None
    via: tuple[NodeId | OverlayAddress, ...] = ()
    both_versions: bool | None = None


@dataclass(frozen=True, slots=True)
class ClosePathRequest:
    """Close one path by its number or its exact destination; None closes all.

    Closing all also unblocks what an earlier process left blocked.
    """

    path: int | IpNetwork | None


@dataclass(frozen=True, slots=True)
class StopRequest:
    """Stop the node. Destinations stay blocked unless ``release`` asks to close all paths."""

    release: bool = False


Request = (
    StatusRequest
    | PeersRequest
    | PathsRequest
    | OpenPathRequest
    | OpenPathsRequest
    | ClosePathRequest
    | StopRequest
)


@dataclass(frozen=True, slots=True)
class StatusReport:
    """How the node is.

    Attributes:
        node_id: 40 hexadecimal digits.
        overlay_address: IPv6 text.
        uptime_s: seconds since the node was up.
        backend: name of the IPsec backend in use.
        backend_reason: why it is this one, as a clause.
        roles: "relay", "exit", both or none.
        listen: UDP endpoints, as text.
        joined: whether at least one other node of the overlay has answered.
        contacts: nodes in the Kademlia routing table.
        mix_nodes: verified descriptors in the Mix-nodes Topology Table.
        exits: how many of those are willing exits.
        links: links that are up.
        link_bytes: how many bytes of UDP payload probes of the links found to pass, one number a
            link, smallest first; links without a result are left out.
        circuits_own: circuits that this node is the source of.
        circuits_relayed: circuits of others that pass through.
        circuits_exit: circuits of others that leave the overlay here.
        counters: packets and bytes since the start, by name.
        drops: dropped packets, by reason.
        protection: names of what the kernel does not hold at this moment of what keeps
            destinations protected; empty if all of it is in force.
        protected: destinations whose packets leave through a circuit or not at all.
        tfc: name of the traffic flow confidentiality strategy.
        forwarding: name of the forwarding rules.
        suspect_regions: regions of the DHT that look eclipsed; what mix_nodes holds of them is
            doubtful.
        exit_problems: why this node is no exit now, though it is configured to be one, or over
            which IP version it is none, each with what mends it.
        endpoints: UDP endpoints under which this node tells others to reach it, as text.
        reachability: what tests by other nodes have shown of each of them: "untested",
            "reachable" or "not reachable".
        network_problems: why other nodes cannot reach this node, or not everywhere.
        blocked_versions: IP versions ("IPv4", "IPv6") that paths block as a whole, except for
            local addresses.
        unprotected: destinations, or IP versions, that shall be blocked or carried, but to which
            packets leave in the clear, because the guard cannot be set.
        unprotected_reason: why, as a sentence.
        verdict: what works, what does not and what to do, in a few sentences.
        works: whether the verdict names no trouble.
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
    link_bytes: tuple[int, ...] = ()
    reachability: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PeerReport:
    """One Mix-node of the topology table.

    ``exit_policy`` has one text for each rule, empty if the node is no exit; ``expires_in_s``
    is how long its descriptor stays valid; ``linked`` tells whether a link to it is up.
    ``heard_s`` is the time in seconds since the node itself sent something to this one that was
    authentic; None if it never did, or if the kernel does not tell and no answer came.
    ``link_bytes`` is the largest UDP payload in bytes that probes of the link found to pass; None
    without a link or a result, and with the kernel's IPsec, which does not probe.
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
    "rebuilding", "closing"). ``hops`` are in order, first hop first, empty while there is no
    circuit.
    ``rtt_ms`` is the round trip to the exit, None until measured. ``mtu`` is the largest inner
    packet in bytes. ``link_bytes`` is the largest UDP payload that the first link carries,
    ``whole_bytes`` the largest inner packet that it carries in one datagram; larger ones travel in
    pieces. Both are None until probes of that link have a result. ``both_versions`` tells whether
    the other IP version is blocked because of this path, ``permanent`` whether the configuration
    lists the destination, so that the path returns at the next start. ``stays_open`` has one
    sentence for each way to the same server that the path does not cover. ``unprotected`` says why
    packets to the destination can leave in the clear now; it is empty if they leave through the
    circuit or not at all.

    ``trouble`` is a clause that says why the last circuit ended or could not be had, empty once
    the path is open. ``attempts`` counts the circuits in a row that could not be had.
    ``next_try_s`` is the time until the next attempt in seconds, None if none is waiting.
    ``standby_ready`` tells whether another circuit to the same exit can take over, ``takeovers``
    how often one did.
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
    """What a stopping node leaves behind.

    ``blocked`` counts destinations that stay blocked, ``released`` those whose paths were closed
    because the request asked for it, ``permanent`` those of the released ones that are blocked
    again at the next start because the configuration lists them. ``unprotected`` counts
    destinations of paths that were not blocked when the node stopped, because the guard could not
    be set. ``unblocked_versions`` names IP versions that were blocked as a whole and no longer are.
    """

    blocked: int
    released: int
    permanent: int
    unprotected: int = 0
    unblocked_versions: tuple[str, ...] = ()


class ControlService(Protocol):
    """What a node offers to its owner. An ``OverlayError``'s sentence is the answer."""

    def status(self) -> StatusReport:
        """Tell how the node is."""
        ...

    def peers(self) -> list[PeerReport]:
        """List the Mix-nodes of the topology table."""
        ...

    def paths(self) -> list[PathReport]:
        """List the paths that the user asked for."""
        ...

    async def open_path(self, request: OpenPathRequest) -> PathReport:
        """Open a path and return when it carries packets.

        Cancelled when the asker hangs up or the time for an answer is over. The destination
        then stays blocked, and the node goes on opening the path.
        """
        ...

    async def open_paths(self, request: OpenPathsRequest) -> list[PathReport]:
        """Open paths to several destinations and return when all carry packets."""
        ...

    async def close_path(self, which: int | IpNetwork | None) -> int:
        """Close one path, or all (None); return how many were closed."""
        ...

    async def leave(self, *, release: bool) -> StopReport:
        """Tell what stays blocked when the node stops; close all paths first if asked to."""
        ...

    def stop(self) -> None:
        """Begin to stop the node; returns at once."""
        ...
