"""Hosts with a SignallingManager and a real engine each, on an in-memory network with one clock."""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from overlay.addresses import Endpoint, IpNetwork, OverlayAddress
from overlay.apm.events import ApmEvent, LinkWanted
from overlay.apm.inner_addresses import InnerAddressPool
from overlay.apm.settings import ApmSettings
from overlay.apm.signalling import SignallingManager
from overlay.apm.spi import SpiAllocator
from overlay.dht.descriptor import MixDescriptor, OnionKey, Role
from overlay.identity import LocalIdentity
from overlay.ipsec.interface import IpsecConfiguration
from overlay.ipsec.suites import SUITES
from overlay.ipsec.userspace.engine import UserspaceEngine
from overlay.link.events import LinkKeys, LinkPeer
from overlay.link.security import LinkSecurity, link_configuration
from overlay.selection.selector import MixPath
from overlay.sensitive import SecretBytes
from sims.world.engine.deadlines import run_with_deadlines
from sims.world.engine.heap import EventHeap
from sims.world.engine.network import Network, OneWayDelay
from sims.world.latency import Constant

START = 1_700_000_000.0
BOB_V4 = ipaddress.ip_network("93.184.216.34/32")
BOB_V6 = ipaddress.ip_network("2606:2800:220:1::1/128")
INNER_V4 = ipaddress.IPv4Network("100.64.0.0/10")
INNER_V6 = ipaddress.IPv6Network("fd77::/64")
LINK_SUITE = 3


def lab_settings(**changed: object) -> ApmSettings:
    return ApmSettings(**{"allow_private_endpoints": True, **changed})  # type: ignore[arg-type]


def describe(identity: LocalIdentity, endpoint: Endpoint) -> MixDescriptor:
    return MixDescriptor(
        network_id="test",
        identity_key=identity.identity_key,
        onion_keys=(OnionKey(1, identity.onion_key),),
        link_key=identity.link_key,
        esp_suites=(1, 3, 4),
        endpoints=(endpoint,),
        roles=frozenset({Role.RELAY, Role.EXIT}),
        exit_policy=None,
        bandwidth_kbit=1000,
        sequence=1,
        valid_from=0,
        expires=2**31,
        encoded=b"",
    )


@dataclass
class Host:
    net: Net
    index: int
    name: str
    identity: LocalIdentity
    endpoint: Endpoint
    engine: UserspaceEngine
    spis: SpiAllocator
    pool: InnerAddressPool
    manager: SignallingManager
    events: list[ApmEvent] = field(default_factory=list)
    to_host: list[bytes] = field(default_factory=list)
    to_exit: list[bytes] = field(default_factory=list)
    links: dict[OverlayAddress, tuple[IpsecConfiguration, LinkSecurity]] = field(
        default_factory=dict
    )
    alive: bool = True

    def next_deadline(self) -> float:
        return self.manager.next_deadline()

    def handle_deadline(self, now: float) -> None:
        self.manager.handle_deadline(now)
        self.net.pump(self)

    def arrived(self, item: tuple[bytes, Endpoint]) -> None:
        self.net.deliver(self, item)

    @property
    def address(self) -> OverlayAddress:
        return self.identity.overlay_address

    @property
    def descriptor(self) -> MixDescriptor:
        return describe(self.identity, self.endpoint)

    def events_of(self, kind: type) -> list[ApmEvent]:
        return [event for event in self.events if isinstance(event, kind)]

    def is_empty(self) -> bool:
        """Whether nothing but links is left: no SA, no policy, no address, no SPI."""
        for configuration, _ in self.links.values():
            self.engine.remove(configuration)
        return self.engine.contents().is_empty and not len(self.spis) and not len(self.pool)


class Net:
    """Hosts by name. Conditions of lines are imposed on ``network``."""

    def __init__(
        self,
        names: Sequence[str],
        seed: int = 1,
        settings: ApmSettings | None = None,
        latency: OneWayDelay | None = None,
        probed_packet_bytes: int | None = None,
        **each: object,
    ) -> None:
        self._probed_packet_bytes = probed_packet_bytes
        self.rng = Random(seed)
        self.heap = EventHeap(START)
        self.network = Network(self.heap, latency or Constant(0.01), Random(f"network {seed}"))
        self._reqids = itertools.count(1)
        self.hosts: dict[str, Host] = {}
        self.refuse_links: set[OverlayAddress] = set()
        self.datagram_sizes: set[int] = set()
        for index, name in enumerate(names):
            self.hosts[name] = self._make(name, index, each.get(name, settings) or lab_settings())
            self.network.attach(self.hosts[name])

    @property
    def now(self) -> float:
        return self.heap.now

    def _make(self, name: str, index: int, settings: object) -> Host:
        assert isinstance(settings, ApmSettings)
        rng = Random(self.rng.getrandbits(64))
        identity = LocalIdentity.generate(rng)
        engine = UserspaceEngine(rng=rng)
        spis = SpiAllocator(rng)
        pool = InnerAddressPool(INNER_V4, INNER_V6, rng)
        manager = SignallingManager(
            identity,
            engine,
            spis,
            settings,
            rng,
            pool,
            True,
            probed_packet_bytes=self._probed_packet_bytes,
        )
        endpoint = Endpoint(f"10.0.0.{index + 1}", 4500)
        return Host(self, index, name, identity, endpoint, engine, spis, pool, manager)

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def path(self, *names: str) -> MixPath:
        return MixPath(tuple(self.hosts[name].descriptor for name in names))

    def open(self, source: str, names: Sequence[str], destination: IpNetwork = BOB_V4) -> int:
        host = self.hosts[source]
        number = host.manager.anonymous_connection(self.path(*names), destination, self.now)
        self.pump(host)
        return number

    # --- links ---

    def _link_wanted(self, host: Host, peer: LinkPeer) -> None:
        other = self.network.host_at(peer.endpoint)
        if not isinstance(other, Host):  # it crashed
            return
        if peer.overlay_address in self.refuse_links or other.address != peer.overlay_address:
            host.manager.link_lost(peer.overlay_address, self.now)
            return
        if other.address not in host.links:
            self.link(host, other)

    def link(self, left: Host, right: Host) -> None:
        size = SUITES[LINK_SUITE].keymat_bytes
        spis = [self.rng.randint(256, 2**32 - 1) for _ in range(2)]
        secrets = [SecretBytes(self.rng.randbytes(size)) for _ in range(2)]
        for host, peer, own, other in ((left, right, 0, 1), (right, left, 1, 0)):
            keys = LinkKeys(LINK_SUITE, spis[own], secrets[own], spis[other], secrets[other])
            reqid = next(self._reqids)
            configuration = link_configuration(
                host.address,
                peer.address,
                local=host.endpoint,
                remote=peer.endpoint,
                keys=keys,
                reqid=reqid,
            )
            host.engine.install(configuration)
            security = LinkSecurity(reqid, host.endpoint.packed, peer.endpoint.packed)
            host.links[peer.address] = (configuration, security)
        for host, peer in ((left, right), (right, left)):
            host.manager.link_established(peer.address, host.links[peer.address][1], self.now)
            self.pump(host)

    def crash(self, name: str) -> None:
        self.hosts[name].alive = False
        self.network.crash(self.hosts[name])

    def revive(self, name: str) -> None:
        self.hosts[name].alive = True
        self.network.attach(self.hosts[name])

    def notice_crash(self, of: str, by: str) -> None:
        """The link block of ``by`` finds out that ``of`` is gone."""
        host, gone = self.hosts[by], self.hosts[of].address
        configuration, _ = host.links.pop(gone)
        host.manager.link_lost(gone, self.now)
        self.pump(host)
        host.engine.remove(configuration)

    # --- packets ---

    def pump(self, host: Host) -> None:
        while True:
            for identity in host.engine.soft_expired():
                host.manager.soft_expired(identity, self.now)
            events = host.manager.events()
            host.events += events
            for event in events:
                if isinstance(event, LinkWanted):
                    self._link_wanted(host, event.peer)
            packets = host.manager.packets_to_send(self.now)
            if packets:
                self.send(host, host.engine.process_outbound(packets, self.now).to_network)
            if not events and not packets:
                return

    def inject(self, name: str, packet: bytes) -> None:
        """A plain IP packet from the host's TUN device."""
        host = self.hosts[name]
        self.send(host, host.engine.process_outbound([packet], self.now).to_network)
        self.pump(host)

    def send(self, sender: Host, datagrams: Sequence[tuple[bytes, Endpoint]]) -> None:
        for data, endpoint in datagrams:
            self.datagram_sizes.add(len(data))
            self.network.carry(data, sender.endpoint, endpoint)

    def deliver(self, host: Host, item: tuple[bytes, Endpoint]) -> None:
        """Process a datagram that arrived at a host, or that a test plays back."""
        processed = host.engine.process_inbound([item], self.now)
        host.to_host += processed.to_host
        host.to_exit += processed.to_exit
        host.manager.receive(processed.to_control, self.now)
        self.send(host, processed.to_network)
        self.pump(host)

    def run(self, seconds: float) -> None:
        run_with_deadlines(
            self.heap,
            self.now + seconds,
            lambda: [host for host in self.hosts.values() if host.alive],
        )
