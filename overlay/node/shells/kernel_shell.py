"""The kernel backend in the operating system: devices, filters, and sockets for control traffic.

The kernel carries all packets of circuits. After the set-up, only control traffic, expiring SAs
and other notices of the kernel wake the node's process.

::

    opened    backend (device, SAs, policies) -> devices for large packets -> flow labels
              -> IPsec filter -> exit's filter -> control sockets -> ESP of UDP port to kernel
    closed    in the reverse order
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from typing import Final, TypeVar

import trio

from overlay.addresses import Endpoint, InnerAddress, IpNetwork
from overlay.config import Configuration
from overlay.errors import BackendError
from overlay.ipsec.suites import SUITES
from overlay.ipsec.xfrm.backend import XfrmBackend
from overlay.ipsec.xfrm.encapsulation import decapsulate_esp
from overlay.logs import EventLog, Word
from overlay.node.assembly import path_mtu
from overlay.node.exit_destinations import exit_limits, opened_links
from overlay.node.exit_role import ExitRole
from overlay.node.shells.enforcement import Enforced
from overlay.node.shells.kernel_source import KernelSource
from overlay.node.shells.kernel_transport import CONTROL_PORTS, KernelTransport
from overlay.node.shells.packet_shell import BackendChoice, ShellHost
from overlay.node.shells.packet_transport import Arrived
from overlay.node.shells.path_mtus import PathMtus
from overlay.node.shells.refusals import Refusals
from overlay.node.shells.sockets import Sockets
from overlay.packet_sizes import INNER_MTU
from overlay.paths.requested_path import RequestedPath
from overlay.system.conntrack import forget_connections
from overlay.system.control_sockets import ControlSocket
from overlay.system.exit_filter import ExitFilter, clear_exit_leftovers
from overlay.system.exit_problems import host_problems
from overlay.system.filter_choice import find_packet_filter
from overlay.system.flow_labels import FlowLabels
from overlay.system.fragmenting_device import FragmentingDevice
from overlay.system.ipsec_firewall import IpsecFirewall
from overlay.system.kept_device import DeviceOwner, KeptDevices
from overlay.system.kill_switch import NODE_MARK, KillSwitch
from overlay.system.link_detour import LinkDetour
from overlay.system.local_address import uplink_mtu
from overlay.system.refused_packets import AnswerSender, RefusedPackets
from overlay.system.tun import MIN_MTU
from overlay.system.udp import bound_socket

__all__ = ["KernelShell", "hand_esp_over"]

_log = EventLog(__name__)

_Made = TypeVar("_Made", FragmentingDevice, LinkDetour, RefusedPackets, AnswerSender)
_LOST: Final = "kernel.large_packets_are_lost"

_MOVES_PAUSE_S: Final = 0.05
"""Pause between two reads of moved peers. The kernel notifies every packet from a new endpoint, but
one challenge per peer is enough."""

_DEVICES_CHECK_S: Final = 2.0
"""How often new devices are searched, if traffic control is used to clear flow labels."""


class KernelShell:
    """Implements ``overlay.node.shells.packet_shell.PacketShell`` with the Linux kernel."""

    # Large: the parts are opened in one order, and closed in the reverse one.
    def __init__(
        self, configuration: Configuration, network: Sockets, backend: XfrmBackend, reason: str
    ) -> None:
        """Set up everything that the kernel needs to carry circuits; a failure leaves nothing.

        ``backend`` is closed together with the shell, or at once if the set-up fails. ``reason``
        says why this backend was chosen.

        Raises:
            BackendError: the operating system refused an operation.
        """
        self.choice = BackendChoice(backend.capabilities().name, reason)
        self.backend = backend
        self.unforgotten = 0
        self._node: ShellHost | None = None
        self.exit_role: ExitRole | None = None
        self._exit_filter: ExitFilter | None = None
        roles, mtu = configuration.roles, path_mtu(configuration, sends_pieces=False)
        own_ports = [each.port for each in configuration.network.listen]
        with ExitStack() as opened:
            opened.callback(backend.close)
            # An exit that was killed may have left its packet filter.
            clear_exit_leftovers()
            forwards = roles.relay or roles.exit
            largest = max(mtu, min(path_mtu(configuration), INNER_MTU))
            cut_to = partial(FragmentingDevice, max(largest, MIN_MTU))
            fragmenting, detour = _if_possible(opened, cut_to), _if_possible(opened, LinkDetour)
            self._largest = mtu if fragmenting is None or detour is None else largest
            self._mtus = _path_mtus(configuration, mtu)
            self.kill_switch = KernelSource(
                lambda: KillSwitch(by_ipsec=True, own_ports=own_ports),
                device=backend.device_name,
                path_mtu=mtu,
                fragmenting=fragmenting,
                ask_for_mark=backend.ask_for_mark if self._largest > mtu else None,
            )
            opened.callback(self.kill_switch.close)
            backend.before_address = self.kill_switch.expect
            self._labels = opened.enter_context(FlowLabels(find_packet_filter()))
            fragments_links = forwards and detour is not None
            wall = IpsecFirewall(CONTROL_PORTS, forwards=forwards, cuts_links=fragments_links)
            # Devices are repaired first, because the routes of the kill switch lead to them.
            self.enforced: tuple[Enforced, ...] = (
                KeptDevices(_device_owners(backend, fragmenting, detour)),
                self.kill_switch,
                opened.enter_context(wall),
                backend,
            )
            if roles.exit:
                exits = _exit_filter(configuration, backend.device_name, mtu, fragmenting)
                self._exit_filter = opened.enter_context(exits)
                self.exit_role = _exit_role(configuration, exits, backend)
            self._control = {
                port: opened.enter_context(ControlSocket(port)) for port in CONTROL_PORTS
            }
            self._refused = _if_possible(opened, RefusedPackets, "kernel.refusals_are_silent")
            sender = _if_possible(opened, AnswerSender, "kernel.refusals_are_silent")
            self._refusals = Refusals(sender) if sender else None
            hand_esp_over(network)
            self._opened = opened.pop_all()
        refusals = self._refusals
        self.path = KernelTransport(
            self._control, refusals.counters if refusals else dict[str, int]
        )

    def start(self, node: ShellHost) -> None:
        """Start the tasks that read control traffic and notices of the kernel."""
        self._node = node
        self.kill_switch.mtu_of = self._mtu_to
        node.cores.circuits_sized = self.kill_switch.resize
        node.cores.exit_circuit_sized = self._answers_sized
        for each in self._control.values():
            node.spawn(self._receive, node, each)
        node.spawn(self._watch_expiry, node)
        node.spawn(self._watch_moves, node)
        if self._labels.needed:
            node.spawn(self._watch_devices)
        if self._refused is not None and self._refusals is not None:
            node.spawn(self._answer_refused, self._refused, self._refusals)

    def own_addresses(self) -> frozenset[bytes]:
        """Return an empty set, because the exit's filter recognises this host's addresses."""
        return frozenset()

    def refuse_destinations(self, addresses: frozenset[bytes]) -> None:
        """Block packets of an exit's circuits to these packed addresses."""
        if self.exit_role is not None:
            self.exit_role.refuse_destinations(addresses)

    @property
    def probed_packet_bytes(self) -> int | None:
        """The largest packet if circuits must be proved to carry it, else None."""
        return self._largest if self._largest > self._mtus.usual else None

    def path_mtu(self, path: RequestedPath) -> int:
        """Return the size in bytes of the largest inner packet that a path takes now."""
        return self._mtus.usual if self._node is None else self._mtus.of(self._node.cores, path)

    def _mtu_to(self, destination: IpNetwork) -> int:
        cores = self._node.cores if self._node is not None else None
        return self._mtus.usual if cores is None else self._mtus.to(cores, destination)

    def _answers_sized(self, inner_addresses: Iterable[InnerAddress], packet_bytes: int) -> None:
        """Let a circuit have answers of the size that its source has proved, up to ours."""
        if self._exit_filter is None:
            return
        try:
            self._exit_filter.resize(inner_addresses, min(packet_bytes, self._largest))
        except BackendError as error:
            _log.warning("kernel.mtu_not_changed", reason=Word(error))

    def forget(self, inner_addresses: Iterable[InnerAddress]) -> None:
        """Remove the tracked connections of a circuit that ended (paper, section 2.5)."""
        inner_addresses = tuple(inner_addresses)
        self._answers_sized(inner_addresses, 0)
        for address in inner_addresses:
            if forget_connections(address) is None:
                self.unforgotten += 1

    def close(self) -> None:
        """Remove sockets, filters, settings, SAs, policies, addresses and the device."""
        self._opened.close()

    async def _receive(self, node: ShellHost, control: ControlSocket) -> None:
        while True:
            datagrams = await control.receive_batch()
            node.take(self.path.received(control.port, datagrams))

    async def _watch_expiry(self, node: ShellHost) -> None:
        """Let the cores process expired SAs whenever the kernel reports some."""
        while True:
            await trio.lowlevel.wait_readable(self.backend.fileno())
            node.settle(node.now())

    async def _watch_moves(self, node: ShellHost) -> None:
        """Report to the cores packets of links that came from an unexpected endpoint."""
        moved_peers = self.backend.moved_peers
        while True:
            await trio.lowlevel.wait_readable(moved_peers.fileno())
            node.take(Arrived(moved=moved_peers.drain()))
            await trio.sleep(_MOVES_PAUSE_S)

    async def _answer_refused(self, refused: RefusedPackets, refusals: Refusals) -> None:
        """Answer packets that the packet filter refuses; the filter limits their rate."""
        while True:
            await trio.lowlevel.wait_readable(refused.fileno())
            refusals.answer(refused.read())

    async def _watch_devices(self) -> None:
        """Clear flow labels on new devices too. Until then, labelled packets are dropped there."""
        while True:
            await trio.sleep(_DEVICES_CHECK_S)
            try:
                self._labels.refresh()
            except BackendError as error:
                _log.warning("kernel.flow_labels_are_dropped", reason=Word(error))


def _device_owners(
    backend: XfrmBackend, fragmenting: FragmentingDevice | None, detour: LinkDetour | None
) -> dict[str, DeviceOwner]:
    """Return the owners of the devices that exist here, by the names for log and status."""
    found = {
        "circuit device": backend.device,
        "fragmenting device": fragmenting,
        "device for large packets": detour,
    }
    return {name: owner for name, owner in found.items() if owner is not None}


def _path_mtus(configuration: Configuration, usual: int) -> PathMtus:
    onion, link = configuration.ipsec.esp_suite, configuration.ipsec.link_suite
    mtu_to = partial(uplink_mtu, mark=NODE_MARK)
    return PathMtus(usual, SUITES[onion], SUITES[link], mtu_to)


def _if_possible(
    opened: ExitStack, make: Callable[[], _Made], without: str = _LOST
) -> _Made | None:
    """Create an optional object, or return None if the kernel or missing rights prevent it.

    The node runs without it. The log event ``without`` says what does not work then.
    """
    try:
        return opened.enter_context(make())
    except BackendError as error:
        _log.warning(without, reason=Word(error))
        return None


def _exit_filter(
    configuration: Configuration, device: str, mtu: int, fragmenting: FragmentingDevice | None
) -> ExitFilter:
    pools: tuple[IpNetwork, ...] = (configuration.exit.inner_ipv4, configuration.exit.inner_ipv6)
    policy = configuration.exit_policy()
    return ExitFilter(
        device,
        pools,
        mtu=mtu,
        policy=policy,
        fragmenting=fragmenting,
        limits=exit_limits(configuration),
        own_links_opened=opened_links(configuration),
    )


def _exit_role(configuration: Configuration, wall: ExitFilter, backend: XfrmBackend) -> ExitRole:
    return ExitRole(
        wall,
        (configuration.exit.inner_ipv4, configuration.exit.inner_ipv6),
        configuration.exit_policy(),
        write=backend.write_to_device,
        examine=host_problems,
    )


def hand_esp_over(network: Sockets) -> None:
    """Let the kernel take ESP from the node's ports.

    A trial socket per IP version comes first, so that a failure leaves all ports unchanged.

    Raises:
        BackendError: the kernel does not support ESP in UDP for an IP version.
    """
    for family in {":" in each.local.host for each in network}:
        with bound_socket(Endpoint("::" if family else "0.0.0.0", 0)) as trial:
            decapsulate_esp(trial)
    for each in network:
        each.prepare(decapsulate_esp)
