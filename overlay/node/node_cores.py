"""The cores of a node: distribute datagrams to them, and pass their events on.

This does no I/O: it takes datagrams and the time, sends datagrams to a sink, and has one deadline.
The shell in ``overlay.node.running`` drives it with sockets, the simulator with an event heap.

::

    DHT ──descriptors──> topology table ──view──> paths ──circuits──> APM
                                                    │ kill switch      │ link wanted
    TFC ──dummies──┐                                v                  v
                   └──> engine <──SAs, policies── neighbours <──keys── links
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from overlay.addresses import Endpoint, InnerAddress, OverlayAddress
from overlay.apm.events import (
    ApmEvent,
    CircuitEvent,
    CircuitMoved,
    CircuitSized,
    ExitCircuitClosed,
    ExitCircuitSized,
    LinkSilent,
    LinkWanted,
)
from overlay.apm.inner_addresses import InnerAddresses
from overlay.apm.plan import link_peer_of
from overlay.apm.signalling import SignallingManager
from overlay.demultiplexer import Channel, Demultiplexed, demultiplex
from overlay.dht.core import Dht
from overlay.dht.events import (
    BootstrapUnreachable,
    DescriptorFound,
    DescriptorRenewed,
    DhtCount,
    DhtEvent,
    EclipseSuspected,
    Joined,
    ProbeWanted,
)
from overlay.dht.topology_table import TopologyTable
from overlay.errors import InternalError
from overlay.ipsec.interface import Spi
from overlay.link.events import LinkPeer
from overlay.link.links import Links
from overlay.logs import EventLog
from overlay.neighbours import Neighbours
from overlay.node.bootstrap_report import BootstrapReport
from overlay.node.channel_sender import ChannelSender
from overlay.node.periodic_tasks import PeriodicTasks
from overlay.node.shells.packet_transport import Arrived, NodeBackend, PacketTransport
from overlay.paths.paths import Paths
from overlay.tfc.strategy import TfcStrategy

__all__ = ["DhtObserver", "NodeCores"]

_log = EventLog(__name__)

_TIDY_INTERVAL_S = 10.0
"""How often expired descriptors are removed and idle links closed."""

_MAX_ROUNDS = 64
"""Cores react to each other within a few rounds. More rounds mean a bug: two cores that cause each
other's events without end."""


DhtObserver = Callable[[DhtEvent, float], None]
"""Receives an event of the DHT core and the time."""


@dataclass(slots=True)
class DhtTraffic:
    """Counters of the DHT's datagrams; bytes count the payload without framing and IP headers."""

    datagrams_sent: int = 0
    bytes_sent: int = 0
    datagrams_received: int = 0
    bytes_received: int = 0


class NodeCores:
    """All cores of a node, and the events between them. It contains no protocol logic.

    ``nearby`` returns the local endpoints of a node behind the same NAT. ``circuits_sized`` is
    called after the MTU of a path may have changed, and ``exit_circuit_sized`` with what
    :class:`ExitCircuitSized` tells.
    """

    def __init__(
        self,
        *,
        dht: Dht,
        links: Links,
        circuits: SignallingManager,
        engine: NodeBackend,
        tfc: TfcStrategy,
        table: TopologyTable,
        neighbours: Neighbours,
        paths: Paths,
        datapath: PacketTransport,
        control: ChannelSender,
        periodic_tasks: PeriodicTasks,
        forget_inner_addresses: Callable[[Iterable[InnerAddress]], None],
    ) -> None:
        self.dht = dht
        self.links = links
        self.circuits = circuits
        self.engine = engine
        self.tfc = tfc
        self.table = table
        self.neighbours = neighbours
        self.paths = paths
        self.datapath = datapath
        self.periodic_tasks = periodic_tasks
        self.joined = False
        self.circuits_sized: Callable[[], None] = lambda: None
        self.exit_circuit_sized: Callable[[InnerAddresses, int], None] = lambda *_: None
        self.nearby: Callable[[OverlayAddress], tuple[Endpoint, ...]] = lambda _: ()
        self._bootstrap = BootstrapReport()
        self.malformed_datagrams = 0
        self.dht_traffic = DhtTraffic()
        self._control = control
        self._dht_observers: list[DhtObserver] = []
        self._forget_inner_addresses = forget_inner_addresses
        links.endpoints.published = self._published
        periodic_tasks.every(_TIDY_INTERVAL_S, "tidy", self._tidy, first=0.0)

    def observe_dht(self, observer: DhtObserver) -> None:
        """Call ``observer`` with each event of the DHT core, after the cores have processed it."""
        self._dht_observers.append(observer)

    def receive(self, batch: Sequence[tuple[bytes, Endpoint]], now: float) -> bool:
        """Process datagrams from the UDP port: first ESP, then the control traffic of each core.

        Returns:
            Whether a core received something, so that the next deadline may have changed.
            Batches that contain only traffic of circuits do not change it.
        """
        parts = demultiplex(batch)
        told = False
        if parts.esp:
            told = self.arrived(self.datapath.from_network(parts.esp, now), now)
        return self.receive_control(parts, now) or told

    def receive_control(self, parts: Demultiplexed, now: float) -> bool:
        """Process a sorted batch without its ESP; the result is that of :meth:`receive`."""
        self.malformed_datagrams += parts.malformed
        if not (parts.dht or parts.link):
            return False
        if parts.dht:
            self.dht_traffic.datagrams_received += len(parts.dht)
            self.dht_traffic.bytes_received += sum(len(data) for data, _ in parts.dht)
            self.dht.receive(parts.dht, now)
        if parts.link:
            self.links.receive(parts.link, now)
        self.settle(now)
        return True

    def arrived(self, arrived: Arrived, now: float) -> bool:
        """Process packets and notices of the backend; the result is that of :meth:`receive`."""
        if not self._take(arrived, now):
            return False
        self.settle(now)
        return True

    def _take(self, arrived: Arrived, now: float) -> bool:
        for spi, source in arrived.moved.items():
            self.links.seen_at(Spi(spi), source, now)
        control = self.neighbours.ready(arrived.to_control) if arrived.to_control else []
        if control:
            self.circuits.receive(control, now)
        return bool(control or arrived.worn or arrived.moved)

    def next_deadline(self) -> float:
        """Return the earliest deadline of all cores, in Unix seconds."""
        return min(
            self.dht.next_deadline(),
            self.links.next_deadline(),
            self.circuits.next_deadline(),
            self.paths.next_deadline(),
            self.tfc.next_deadline(),
            self.periodic_tasks.next_deadline(),
        )

    def handle_deadline(self, now: float) -> None:
        """Let every core do its work that is due at ``now``."""
        self.dht.handle_deadline(now)
        self.links.handle_deadline(now)
        self.circuits.handle_deadline(now)
        self.paths.handle_deadline(now)
        self.periodic_tasks.handle_deadline(now)
        for link in self.tfc.due(now):
            self.datapath.send_dummy(link, now)
        self.settle(now)

    def renew_links(self, now: float) -> None:
        """Rekey links whose local address is no longer used, after addresses or routes changed."""
        self.neighbours.renew_moved(now)

    def settle(self, now: float) -> None:
        """Pass on events and send datagrams until no core has any left.

        Raises:
            InternalError: cores still cause events after ``_MAX_ROUNDS`` rounds.
        """
        for _ in range(_MAX_ROUNDS):
            if not self._round(now):
                return
        raise InternalError("the node's cores do not come to rest")

    def _tidy(self, now: float) -> None:
        self.table.expire(now)
        self.neighbours.close_idle(now)

    def _round(self, now: float) -> bool:
        """Handle the events of every core once; return whether there were any."""
        busy = False
        for identity in self.engine.soft_expired():
            # The engine does not know whether an SA belongs to a link or to a circuit.
            if not self.neighbours.soft_expired(identity, now):
                self.circuits.soft_expired(identity, now)
        for link_event in self.links.events():
            busy = True
            self.neighbours.handle(link_event, now)
        for dht_event in self.dht.events():
            busy = True
            self._dht_event(dht_event, now)
        of_paths: list[CircuitEvent] = []
        sized = False
        for circuit_event in self.circuits.events():
            busy = True
            if isinstance(circuit_event, CircuitEvent):
                of_paths.append(circuit_event)
            elif isinstance(circuit_event, CircuitSized):
                sized = True
            else:
                self._circuit_event(circuit_event, now)
        self.paths.handle_all(of_paths, now)
        if sized or any(isinstance(each, CircuitMoved) for each in of_paths):
            self.circuits_sized()
        return self._send(now) or busy

    def _send(self, now: float) -> bool:
        batch = [(Channel.LINK, data, to) for data, to in self.links.datagrams_to_send(now)]
        # Noted because a NAT lets packets from these endpoints in now: they prove no reachability.
        for _, _, to in batch:
            self.dht.reachability.tests.sent_to(to, now)
        for payload, to in self.dht.datagrams_to_send(now):
            self.dht_traffic.datagrams_sent += 1
            self.dht_traffic.bytes_sent += len(payload)
            batch.append((Channel.DHT, payload, to))
        if batch:
            self._control.send(batch)
        whole = self.links.whole_datagrams_to_send()
        if whole:
            self._control.send_whole([(Channel.LINK, data, to) for data, to in whole])
        # After the datagrams of the links: the peer queues packets until its link is confirmed.
        packets = self.circuits.packets_to_send(now)
        if packets:
            self.datapath.send(packets, now)
        return bool(packets or batch)

    def _dht_event(self, event: DhtEvent, now: float) -> None:
        self._process_dht(event, now)
        for observe in self._dht_observers:
            observe(event, now)

    def _process_dht(self, event: DhtEvent, now: float) -> None:
        if isinstance(event, DescriptorFound | DescriptorRenewed):
            self._descriptor_event(event, now)
            return
        self.table.take(event, now)
        match event:
            case Joined(contacts=contacts):
                self.joined = True
                self._bootstrap.joined(contacts)
            case BootstrapUnreachable(endpoint=endpoint):
                strangers = self.dht.counters().get(DhtCount.OTHER_NETWORK, 0)
                self._bootstrap.silent(endpoint, strangers)
            case EclipseSuspected(chance=chance, own_region=own_region):
                _log.warning(
                    "topology.eclipse_suspected",
                    peer_triggered=True,
                    chance=chance,
                    own_region=own_region,
                )
            case ProbeWanted(datagram=datagram, endpoint=endpoint):
                self._control.send_apart((Channel.DHT, datagram, endpoint))
            case _:
                pass

    def _descriptor_event(self, event: DescriptorFound | DescriptorRenewed, now: float) -> None:
        node_id = event.descriptor.node_id
        before = self.table.get(node_id)
        self.table.take(event, now)
        after = self.table.get(node_id)
        if before is not None and after is not None and before is not after:
            address = after.overlay_address
            self.neighbours.published(address, before.endpoints, after.endpoints, now)

    def _published(self, overlay_address: OverlayAddress) -> tuple[Endpoint, ...]:
        """Return where a node can be reached, as this node knows it now."""
        descriptor = self.table.by_overlay_address(overlay_address)
        published = descriptor.endpoints if descriptor is not None else ()
        return (*self.nearby(overlay_address), *published)

    def _as_known(self, peer: LinkPeer) -> LinkPeer:
        """Return the peer as its descriptor describes it, if this node has that descriptor.

        ``peer`` comes from an onion layer, and any source can write wrong values there. A link to
        a wrong endpoint or with a wrong key would delay all circuits that need this link.
        """
        descriptor = self.table.by_overlay_address(peer.overlay_address)
        if descriptor is None or not descriptor.endpoints:
            return peer
        known = link_peer_of(descriptor, self.dht.versions)
        first, *others = (*self.nearby(peer.overlay_address), *known.endpoints)
        return replace(known, endpoint=first, others=tuple(others))

    def _circuit_event(self, event: ApmEvent, now: float) -> None:
        match event:
            case LinkWanted(peer=peer):
                self.links.connect(self._as_known(peer), now)
            case LinkSilent(overlay_address=overlay_address):
                # If the peer restarted, the link gets new SAs. If it is gone, the link closes.
                self.links.rekey(overlay_address, now)
            case ExitCircuitClosed(inner_addresses=inner_addresses):
                self._forget_inner_addresses(inner_addresses)
            case ExitCircuitSized(inner_addresses=inner_addresses, packet_bytes=packet_bytes):
                self.exit_circuit_sized(inner_addresses, packet_bytes)
            case _:
                pass
