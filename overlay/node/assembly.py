"""Build the cores of a node from its configuration and connect them.

This is the only module that knows all five blocks. Nodes, tests and simulations use it, with
different objects around the cores.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from overlay.addresses import Endpoint, InnerAddress, NodeId
from overlay.apm.inner_addresses import InnerAddressPool
from overlay.apm.signalling import SignallingManager
from overlay.apm.spi import SpiAllocator
from overlay.config import Configuration
from overlay.dht.core import Dht
from overlay.dht.envelope import REQUEST_ID_BYTES
from overlay.dht.topology_table import TopologyTable
from overlay.errors import BackendError
from overlay.forwarding.rules import ForwardingRules
from overlay.hop_limit import MAX_HOPS
from overlay.identity import LocalIdentity
from overlay.ipsec.interface import Spi
from overlay.ipsec.lifetimes import draw_lifetime
from overlay.ipsec.mtu import esp_payload_that_fits, inner_mtu
from overlay.ipsec.spi_mark import SpiMark
from overlay.ipsec.suites import SUITES
from overlay.link.lifetimes import link_limits
from overlay.link.links import DEFAULT_LINK_SUITES, Links
from overlay.link.replay import InitiationClock
from overlay.neighbours import Neighbours
from overlay.node.channel_sender import ChannelSender, FramedSender
from overlay.node.node_cores import NodeCores
from overlay.node.periodic_tasks import PeriodicTasks
from overlay.node.shells.packet_transport import (
    DatagramSink,
    NodeBackend,
    PacketEngine,
    PacketTransport,
)
from overlay.node.shells.port_forms import Marks
from overlay.node.shells.userspace_transport import UserspaceTransport
from overlay.packet_sizes import INNER_MTU, SEGMENT_MTU
from overlay.paths.mix_choice import MixChoice
from overlay.paths.path_services import KillSwitchService
from overlay.paths.paths import Paths
from overlay.paths.standby_keeper import StandbyKeeper
from overlay.plugins import load_plugin
from overlay.selection.checked import CheckedSelector
from overlay.selection.selector import PathSelector
from overlay.system.exit_networks import exit_gateway
from overlay.system.exit_probe import probe_address
from overlay.tfc.strategy import TfcStrategy
from overlay.work_budget import WorkBudget

__all__ = [
    "Surroundings",
    "build_cores",
    "build_datapath",
    "build_tfc",
    "path_mtu",
    "wire_cores",
]

# Sizes are computed for Ethernet and for the longer outer headers, those of IPv6 and UDP.
_UNDERLAY_MTU = 1500
_UDP_IPV6_HEADERS = 48


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What surrounds the cores: shells in a node, fakes in tests and simulations.

    Attributes:
        network: Sends datagrams from the UDP port of the node.
        kill_switch: The kill switch for destinations.
        local_address: Returns the local endpoint of datagrams to a peer.
        local_addresses: Returns the packed addresses that lead to this host.
        forget_inner_addresses: Removes tracked connections of a circuit that ended at this exit.
        marks: Secret properties of the numbers that this node draws. None if the UDP port does
            not test them.
        inner_in_use: Tells whether this host uses a packed address for something else already.
        probes_sizes: Whether links probe the path MTU, because large datagrams may be lost.
        initiations: Draws timestamps of link handshakes above those of earlier processes.
        send_apart: Sends a datagram from a UDP port that is used once.
        control: Sends the datagrams of links and of the DHT. None frames them for ``network`` and
            ``send_apart``.
    """

    network: DatagramSink
    kill_switch: KillSwitchService
    local_address: Callable[[Endpoint], Endpoint]
    local_addresses: Callable[[], frozenset[bytes]]
    forget_inner_addresses: Callable[[Iterable[InnerAddress]], None]
    marks: Marks | None = None
    inner_in_use: Callable[[bytes], bool] = lambda _: False
    probes_sizes: bool = False
    probed_packet_bytes: int | None = None
    initiations: InitiationClock | None = None
    send_apart: Callable[[bytes, Endpoint], None] = lambda *_: None
    control: ChannelSender | None = None


def segment_bytes(configuration: Configuration) -> int:
    """Return the size in bytes of a whole TCP segment in a circuit, IP header included."""
    return min(path_mtu(configuration), SEGMENT_MTU)


def path_mtu(configuration: Configuration, *, sends_pieces: bool = True) -> int:
    """Return the MTU in bytes of inner packets, which is the same for all paths of this node.

    It is the setting ``path_mtu`` of the forwarding rules, if they have this setting. Unless the
    backend ``sends_pieces``, it is at most the size that needs no fragments on a path with
    ``MAX_HOPS`` hops.
    Source: docs/decisions/0003 and 0054.
    """
    name = configuration.forwarding.rules
    settings = configuration.plugin_settings("overlay.forwarding", name)
    wanted: int = getattr(settings, "path_mtu", INNER_MTU)
    if sends_pieces:
        return wanted
    unfragmented = inner_mtu(
        _UNDERLAY_MTU,
        hops=MAX_HOPS,
        onion=SUITES[configuration.ipsec.esp_suite],
        link=SUITES[configuration.ipsec.link_suite],
        ipv6=True,
    )
    return min(wanted, unfragmented)


def build_cores(
    configuration: Configuration,
    identity: LocalIdentity,
    surroundings: Surroundings,
    *,
    engine: PacketEngine,
    endpoints: tuple[Endpoint, ...],
    rng: Random,
    dht: Dht | None = None,
) -> NodeCores:
    """Connect the cores of one node to a userspace engine, without an operating system.

    Args:
        configuration: the settings of the node.
        identity: the keys of the node.
        surroundings: what replaces sockets, devices and filters.
        engine: an IPsec engine that processes packets in this process.
        endpoints: where other nodes reach this node.
        rng: source of all random numbers.
        dht: a DHT core to use instead of a new one, for a node whose DHT core runs already.
    """
    datapath = build_datapath(
        configuration, engine, surroundings.network, surroundings.local_addresses
    )
    return wire_cores(
        configuration,
        identity,
        surroundings,
        backend=engine,
        datapath=datapath,
        endpoints=endpoints,
        rng=rng,
        dht=dht,
    )


def build_datapath(
    configuration: Configuration,
    engine: PacketEngine,
    network: DatagramSink,
    local_addresses: Callable[[], frozenset[bytes]],
) -> UserspaceTransport:
    """Return the packet transport of the userspace backend.

    ``local_addresses`` returns the packed addresses that lead to this host. Exits refuse them as
    destinations.
    """
    return UserspaceTransport(
        engine,
        _forwarding_rules(configuration, local_addresses),
        network,
        inner_mtu=path_mtu(configuration),
        segment_bytes=segment_bytes(configuration),
    )


# Large: it builds all cores and connects them; each name is used below it.
def wire_cores(
    configuration: Configuration,
    identity: LocalIdentity,
    surroundings: Surroundings,
    *,
    backend: NodeBackend,
    datapath: PacketTransport,
    endpoints: tuple[Endpoint, ...],
    rng: Random,
    dht: Dht | None = None,
) -> NodeCores:
    """Connect the cores of one node to a backend and its packet transport.

    The arguments are those of :func:`build_cores`. ``backend`` holds SAs and policies, and
    ``datapath`` carries packets.
    """
    spis = SpiAllocator(rng)
    marks = surroundings.marks
    budget = WorkBudget(configuration.network.unauthenticated_cpu_percent / 100)
    table = TopologyTable(
        allow_private_endpoints=configuration.network.allow_private_endpoints,
        identity_cost_bits=configuration.dht.identity_cost_bits,
    )
    dht = dht or Dht(
        identity,
        network_id=configuration.network.network_id,
        settings=configuration.dht,
        rng=rng,
        endpoints=endpoints,
        known_endpoints=partial(_known_endpoints, table),
        budget=budget,
        draw_id=None if marks is None else partial(_marked_id, marks.numbers, rng),
    )
    links = Links(
        identity,
        network_id=configuration.network.network_id,
        settings=configuration.link,
        rng=rng,
        allocate=_link_spis(spis, marks, rng),
        release=spis.release,
        suites=_link_suites(configuration),
        budget=budget,
        local_endpoint=partial(_local_endpoint, surroundings),
        draw_index=None if marks is None else partial(marks.numbers.draw_spi, rng),
        # Without pieces, a node neither sends nor answers probes (docs/decisions/0054).
        probes_sizes=surroundings.probes_sizes and backend.capabilities().sends_pieces,
        clock=surroundings.initiations,
    )
    circuits = SignallingManager(
        identity,
        backend,
        spis,
        configuration.apm,
        rng,
        _inner_addresses(configuration, rng),
        relay=configuration.roles.relay,
        inner_in_use=lambda packed: surroundings.inner_in_use(packed) or paths.covers(packed),
        budget=budget,
        probed_packet_bytes=surroundings.probed_packet_bytes,
    )
    tfc = build_tfc(configuration, rng)
    neighbours = Neighbours(
        own_address=identity.overlay_address,
        links=links,
        backend=backend,
        circuits=circuits,
        tfc=tfc,
        local_address=surroundings.local_address,
        link_payload_bytes=esp_payload_that_fits(
            _UNDERLAY_MTU - _UDP_IPV6_HEADERS, SUITES[configuration.ipsec.link_suite]
        ),
        lifetime=partial(draw_lifetime, link_limits(configuration.link), rng=rng),
    )
    choice = MixChoice(
        table=table,
        selector=partial(_selector, configuration),
        source=identity.node_id,
        onion_suite=configuration.apm.onion_suite,
        esp_suite=configuration.ipsec.esp_suite,
        rng=rng,
        versions=lambda: dht.versions,
        look_again=dht.hasten_crawl,
    )
    standbys = StandbyKeeper(circuits, choice, rng) if configuration.apm.standby else None
    paths = Paths(
        circuits=circuits, kill_switch=surroundings.kill_switch, choice=choice, standbys=standbys
    )
    return NodeCores(
        dht=dht,
        links=links,
        circuits=circuits,
        engine=backend,
        tfc=tfc,
        table=table,
        neighbours=neighbours,
        paths=paths,
        datapath=datapath,
        control=surroundings.control or FramedSender(surroundings.network, surroundings.send_apart),
        periodic_tasks=PeriodicTasks(),
        forget_inner_addresses=surroundings.forget_inner_addresses,
    )


def _known_endpoints(table: TopologyTable, node_id: NodeId) -> tuple[Endpoint, ...]:
    descriptor = table.get(node_id)
    return descriptor.endpoints if descriptor is not None else ()


def _link_suites(configuration: Configuration) -> tuple[int, ...]:
    """Return the configured suite, followed by the other suites that links may use."""
    preferred = configuration.ipsec.link_suite
    return (preferred, *(number for number in DEFAULT_LINK_SUITES if number != preferred))


def _link_spis(spis: SpiAllocator, marks: Marks | None, rng: Random) -> Callable[[], Spi]:
    """Return the function that draws SPIs for links.

    Marked SPIs let the kernel recognise ESP of our links at the UDP port (docs/decisions/0041).
    """
    if marks is None:
        return spis.allocate
    return partial(spis.allocate, partial(marks.link_spis.draw_spi, rng))


def _marked_id(mark: SpiMark, rng: Random) -> bytes:
    """Draw a marked DHT request id, so that the kernel recognises answers to it at the UDP port."""
    number = mark.draw_spi(rng).to_bytes(4, "big")
    return number + rng.randbytes(REQUEST_ID_BYTES - len(number))


def _inner_addresses(configuration: Configuration, rng: Random) -> InnerAddressPool | None:
    if not configuration.roles.exit:
        return None
    pools = (configuration.exit.inner_ipv4, configuration.exit.inner_ipv6)
    # The exit uses these addresses itself: as gateway, and as source of its probes.
    own = [ipaddress.ip_network(of(pool)) for pool in pools for of in (exit_gateway, probe_address)]
    return InnerAddressPool(*pools, rng, skip=own)


def build_tfc(configuration: Configuration, rng: Random) -> TfcStrategy:
    """Return the configured traffic flow confidentiality strategy."""
    strategy: TfcStrategy = _plugin(configuration, "overlay.tfc", configuration.tfc.strategy)(rng)
    return strategy


def _local_endpoint(surroundings: Surroundings, peer: Endpoint) -> Endpoint | None:
    """Return the local endpoint of datagrams to ``peer``, or None if no route leads there."""
    try:
        return surroundings.local_address(peer)
    except BackendError:
        return None


def _forwarding_rules(
    configuration: Configuration, local_addresses: Callable[[], frozenset[bytes]]
) -> ForwardingRules:
    name = configuration.forwarding.rules
    policy = configuration.exit_policy()
    settings = configuration.plugin_settings("overlay.forwarding", name)
    build = load_plugin("overlay.forwarding", name)
    rules: ForwardingRules = build(settings, policy, local_addresses)
    return rules


def _selector(configuration: Configuration, name: str) -> PathSelector:
    return CheckedSelector(name, _plugin(configuration, "overlay.selection", name))


def _plugin(configuration: Configuration, group: str, name: str) -> Callable[..., Any]:
    """Return the constructor of a plug-in; settings are bound to it if the plug-in has any."""
    implementation: Callable[..., Any] = load_plugin(group, name)
    settings = configuration.plugin_settings(group, name)
    return implementation if settings is None else partial(implementation, settings)
