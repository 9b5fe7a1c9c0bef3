"""Build a node's cores from its configuration: the one place that knows all five blocks."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from overlay.addresses import Endpoint, InnerAddress, NodeId
from overlay.apm.inner_addresses import InnerAddressPool
from overlay.apm.settings import MAX_HOPS
from overlay.apm.signalling import SignallingManager
from overlay.apm.spi import SpiAllocator
from overlay.config import Configuration
from overlay.dht.core import Dht
from overlay.dht.envelope import REQUEST_ID_BYTES
from overlay.dht.topology_table import TopologyTable
from overlay.errors import BackendError
from overlay.forwarding.rules import ForwardingRules
from overlay.identity import LocalIdentity
from overlay.ipsec.interface import Spi
from overlay.ipsec.lifetimes import draw_lifetime
from overlay.ipsec.mtu import esp_payload_that_fits, inner_mtu
from overlay.ipsec.spi_mark import SpiMark
from overlay.ipsec.suites import SUITES
from overlay.ipsec.userspace.engine import UserspaceEngine
from overlay.link.lifetimes import link_limits
from overlay.link.links import DEFAULT_LINK_SUITES, Links
from overlay.link.replay import InitiationClock
from overlay.node.control_plane import ControlPlane
from overlay.node.mix_choice import MixChoice
from overlay.node.neighbours import Neighbours
from overlay.node.packet_transport import DatagramSink, NodeBackend, PacketTransport
from overlay.node.paths import KillSwitchService, Paths
from overlay.node.port_forms import Marks
from overlay.node.standby_keeper import StandbyKeeper
from overlay.node.timers import PeriodicTasks
from overlay.node.userspace_transport import UserspaceTransport
from overlay.packet_sizes import INNER_MTU
from overlay.plugins import load_plugin
from overlay.selection.checked import CheckedSelector
from overlay.selection.selector import PathSelector
from overlay.system.exit_networks import exit_gateway
from overlay.system.exit_probe import probe_address
from overlay.tfc.strategy import TfcStrategy
from overlay.work_budget import WorkBudget

__all__ = [
    "Surroundings",
    "build_control_plane",
    "build_datapath",
    "build_tfc",
    "path_mtu",
    "wire_control_plane",
]

_UNDERLAY_MTU = 1500
_UDP_IPV6_HEADERS = 48


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the cores need of the world; shells in a node, fakes in tests and simulations.

    ``marks`` are what the numbers that this node draws have in common, if the network asks for
    it. ``probes_sizes`` tells that datagrams can be lost because of their size. ``initiations``
    stamps the handshakes of links above those of earlier processes. ``send_apart`` sends a
    datagram from a UDP port that is used once.
    """

    network: DatagramSink
    guard: KillSwitchService
    local_address: Callable[[Endpoint], Endpoint]
    local_addresses: Callable[[], frozenset[bytes]]
    forget_inner_addresses: Callable[[Iterable[InnerAddress]], None]
    marks: Marks | None = None
    inner_in_use: Callable[[bytes], bool] = lambda _: False
    probes_sizes: bool = False
    initiations: InitiationClock | None = None
    send_apart: Callable[[bytes, Endpoint], None] = lambda *_: None


def path_mtu(configuration: Configuration, *, in_kernel: bool = False) -> int:
    """Return the inner MTU of every path of this node (docs/decisions/0003, 0054).

    It is what the forwarding rules' setting ``path_mtu`` says, if they have it. The kernel's IPsec
    carries no more than what needs no fragments in the longest path.
    """
    name = configuration.forwarding.rules
    settings = configuration.plugin_settings("overlay.forwarding", name)
    wanted: int = getattr(settings, "path_mtu", INNER_MTU)
    if not in_kernel:
        return wanted
    unfragmented = inner_mtu(
        _UNDERLAY_MTU,
        hops=MAX_HOPS,
        onion=SUITES[configuration.ipsec.esp_suite],
        link=SUITES[configuration.ipsec.link_suite],
        ipv6=True,
    )
    return min(wanted, unfragmented)


def build_control_plane(
    configuration: Configuration,
    identity: LocalIdentity,
    surroundings: Surroundings,
    *,
    engine: UserspaceEngine,
    endpoints: tuple[Endpoint, ...],
    rng: Random,
    dht: Dht | None = None,
    make: Callable[..., ControlPlane] = ControlPlane,
) -> ControlPlane:
    """Wire the cores of one node to a userspace engine, without anything of an operating system.

    ``endpoints`` are those under which others reach it. A simulation brings its own carrier of
    DHT messages: the ``dht`` core that speaks through it, and what to ``make`` of all cores.
    """
    datapath = build_datapath(
        configuration, engine, surroundings.network, surroundings.local_addresses
    )
    return wire_control_plane(
        configuration,
        identity,
        surroundings,
        backend=engine,
        datapath=datapath,
        endpoints=endpoints,
        rng=rng,
        dht=dht,
        make=make,
    )


def build_datapath(
    configuration: Configuration,
    engine: UserspaceEngine,
    network: DatagramSink,
    local_addresses: Callable[[], frozenset[bytes]],
) -> UserspaceTransport:
    """Return the userspace backend's data path; ``local_addresses`` are those of this host."""
    return UserspaceTransport(
        engine,
        _forwarding_rules(configuration, local_addresses),
        network,
        inner_mtu=path_mtu(configuration),
    )


def wire_control_plane(
    configuration: Configuration,
    identity: LocalIdentity,
    surroundings: Surroundings,
    *,
    backend: NodeBackend,
    datapath: PacketTransport,
    endpoints: tuple[Endpoint, ...],
    rng: Random,
    dht: Dht | None = None,
    make: Callable[..., ControlPlane] = ControlPlane,
) -> ControlPlane:
    """Wire the cores of one node to whatever carries its packets."""
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
        probes_sizes=surroundings.probes_sizes and not backend.capabilities().in_kernel,
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
    paths = Paths(circuits=circuits, guard=surroundings.guard, choice=choice, standbys=standbys)
    plane = make(
        dht=dht,
        links=links,
        circuits=circuits,
        engine=backend,
        tfc=tfc,
        table=table,
        neighbours=neighbours,
        paths=paths,
        datapath=datapath,
        network=surroundings.network,
        chores=PeriodicTasks(),
        forget_inner_addresses=surroundings.forget_inner_addresses,
    )
    plane.send_apart = surroundings.send_apart
    return plane


def _known_endpoints(table: TopologyTable, node_id: NodeId) -> tuple[Endpoint, ...]:
    descriptor = table.get(node_id)
    return descriptor.endpoints if descriptor is not None else ()


def _link_suites(configuration: Configuration) -> tuple[int, ...]:
    """The configured suite first, then every other that links may use."""
    preferred = configuration.ipsec.link_suite
    return (preferred, *(number for number in DEFAULT_LINK_SUITES if number != preferred))


def _link_spis(spis: SpiAllocator, marks: Marks | None, rng: Random) -> Callable[[], Spi]:
    """Return how links draw SPIs: with the mark by which the UDP port tells ESP of our links."""
    if marks is None:
        return spis.allocate
    return partial(spis.allocate, partial(marks.link_spis.draw_spi, rng))


def _marked_id(mark: SpiMark, rng: Random) -> bytes:
    """Draw the id of a DHT request, by which the UDP port tells answers that we wait for."""
    number = mark.draw_spi(rng).to_bytes(4, "big")
    return number + rng.randbytes(REQUEST_ID_BYTES - len(number))


def _inner_addresses(configuration: Configuration, rng: Random) -> InnerAddressPool | None:
    if not configuration.roles.exit:
        return None
    pools = (configuration.exit.inner_ipv4, configuration.exit.inner_ipv6)
    own = [ipaddress.ip_network(of(pool)) for pool in pools for of in (exit_gateway, probe_address)]
    return InnerAddressPool(*pools, rng, skip=own)


def build_tfc(configuration: Configuration, rng: Random) -> TfcStrategy:
    """Return the configured traffic flow confidentiality strategy."""
    strategy: TfcStrategy = _plugin(configuration, "overlay.tfc", configuration.tfc.strategy)(rng)
    return strategy


def _local_endpoint(surroundings: Surroundings, peer: Endpoint) -> Endpoint | None:
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
    """Return a plug-in's constructor, its settings already given if it has any."""
    implementation: Callable[..., Any] = load_plugin(group, name)
    settings = configuration.plugin_settings(group, name)
    return implementation if settings is None else partial(implementation, settings)
