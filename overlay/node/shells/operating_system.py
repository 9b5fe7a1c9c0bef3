"""What a node uses of its host beside sockets and files: devices, routes, filters, addresses.

All of these need privileges. They are opened when they are first needed, so that a relay runs as
any user. Tests replace the host by one of their own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from overlay.addresses import Endpoint, InnerAddress, IpAddress, IpNetwork
from overlay.errors import BackendError
from overlay.ipsec.xfrm.leftovers import clear_leftovers
from overlay.node.exit_role import ExitFirewall
from overlay.system.conntrack import forget_connections
from overlay.system.devices import bring_up, default_gateways
from overlay.system.exit_filter import ExitFilter, clear_exit_leftovers
from overlay.system.exit_limits import ExitLimits
from overlay.system.exit_problems import ExitProblem, host_problems
from overlay.system.flow_labels import clear_flow_label_leftovers
from overlay.system.fragmenting_device import clear_fragmenting_leftovers
from overlay.system.host_events import HostEvent
from overlay.system.host_networks import UsedNetwork, used_networks
from overlay.system.ipsec_firewall import IpsecFirewall
from overlay.system.kill_switch import NODE_MARK, KillSwitch
from overlay.system.link_detour import clear_link_detour_leftovers
from overlay.system.local_address import local_address_towards, own_addresses
from overlay.system.rtnetlink import add_address, remove_address
from overlay.system.tun import TunDevice

__all__ = ["KernelKillSwitch", "LinuxOperatingSystem", "OperatingSystem", "Tun"]


class Tun(Protocol):
    """A TUN device."""

    @property
    def name(self) -> str:
        """The name of the device in the kernel."""
        ...

    @property
    def in_place(self) -> bool:
        """Whether the device still has its name in this network namespace."""
        ...

    async def read_batch(self) -> list[bytes]:
        """Wait for packets that the kernel routed here.

        Raises:
            BackendError: another program removed the device.
            trio.ClosedResourceError: the device was closed here.
        """
        ...

    def write_batch(self, packets: Sequence[bytes]) -> None:
        """Pass packets to the kernel without waiting."""
        ...

    def close(self) -> None:
        """Remove the device."""
        ...


class KernelKillSwitch(Protocol):
    """The kill switch; see :class:`~overlay.system.kill_switch.KillSwitch`.

    All calls are idempotent, and may raise ``BackendError``.
    """

    def protect(self, *prefixes: IpNetwork) -> None:
        """Block ``prefixes``: packets to them leave through a circuit or not at all."""
        ...

    def expect(self, source_address: InnerAddress, device: str | None = None) -> None:
        """Accept only answers to an inner address, before this host has it."""
        ...

    def carry(
        self,
        prefix: IpNetwork,
        device: str,
        source_address: InnerAddress,
        mtu: int,
        *,
        program: int | None = None,
    ) -> None:
        """Send packets to a protected prefix into ``device``, or through its ``program``."""
        ...

    def uncarry(self, prefix: IpNetwork) -> None:
        """Stop sending them there."""
        ...

    def together(self) -> AbstractContextManager[None]:
        """Combine all changes inside into one change of the filters."""
        ...

    def release(self, *prefixes: IpNetwork) -> None:
        """Release prefixes, in this order."""
        ...

    def protected(self) -> list[IpNetwork]:
        """Return the protected prefixes, also those that a killed process left."""
        ...

    def hear(self, events: Collection[HostEvent]) -> None:
        """Process changes of the host, before :meth:`repair`."""
        ...

    def disturbed(self) -> bool:
        """Tell, within a millisecond, whether something is missing for which there is no event."""
        ...

    def missing(self) -> tuple[str, ...]:
        """Return the names of missing parts of the kill switch."""
        ...

    def repair(self) -> tuple[str, ...]:
        """Restore what another program removed; return the names of the missing parts."""
        ...

    def close(self) -> None:
        """Close the kill switch; protected prefixes stay protected."""
        ...


# Large: one method for each thing that a node asks of its host.
class OperatingSystem(Protocol):
    """The operating system as a node sees it; every call may raise ``BackendError``."""

    def open_tun(self, template: str, mtu: int, segment_bytes: int) -> Tun:
        """Create a TUN device and bring it up; ``anon%d`` gives the first free ``anonN``.

        It exchanges TCP super-packets of segments of ``segment_bytes`` (:mod:`overlay.offload`).
        """
        ...

    def open_kill_switch(self) -> KernelKillSwitch:
        """Open the kill switch of this host."""
        ...

    def open_exit(
        self,
        device: str,
        inner_networks: Sequence[IpNetwork],
        mtu: int,
        limits: ExitLimits,
        opened_links: Sequence[IpNetwork] | None,
    ) -> ExitFirewall:
        """Forward packets of the inner networks from ``device`` to the outside, within limits.

        ``opened_links`` are networks on this host's links that circuits may reach, None for all.
        """
        ...

    def exit_problems(self, pools: Sequence[IpNetwork]) -> list[ExitProblem]:
        """Return the problems that keep this host from being an exit, except for routes."""
        ...

    def gateways(self) -> frozenset[bytes]:
        """Return the packed addresses of the routers of the default routes."""
        ...

    def used_networks(self) -> list[UsedNetwork]:
        """Return the addresses and networks that this host uses."""
        ...

    def add_address(self, device: str, address: InnerAddress) -> None:
        """Give a device an address."""
        ...

    def remove_address(self, device: str, address: InnerAddress) -> None:
        """Remove an address from a device; neither needs to exist."""
        ...

    def bring_up(self, device: str) -> bool:
        """Bring a device up; return whether it was down."""
        ...

    def own_addresses(self) -> frozenset[bytes]:
        """Return the packed addresses of all devices, loopback included."""
        ...

    def address_towards(self, peer: Endpoint) -> IpAddress:
        """Return the local address of datagrams to ``peer``; an error if no route leads there."""
        ...

    def clear_kernel_ipsec(self) -> None:
        """Remove SAs and policies of a killed node; does nothing without permission."""
        ...

    def forget_connections(self, inner_address: InnerAddress) -> bool:
        """Remove the tracked connections of an inner address; return whether that worked."""
        ...


# Large: the protocol above has these methods.
class LinuxOperatingSystem:
    """The network namespace that this process runs in."""

    def __init__(self, own_ports: Sequence[int] = ()) -> None:
        """Prepare; ``own_ports`` are the UDP ports of the node itself."""
        self._own_ports = tuple(own_ports)

    def open_tun(self, template: str, mtu: int, segment_bytes: int) -> Tun:
        """See :class:`OperatingSystem`."""
        return TunDevice.open(template, mtu, segment_bytes)

    def open_kill_switch(self) -> KernelKillSwitch:
        """See :class:`OperatingSystem`."""
        return KillSwitch(own_ports=self._own_ports)

    def open_exit(
        self,
        device: str,
        inner_networks: Sequence[IpNetwork],
        mtu: int,
        limits: ExitLimits,
        opened_links: Sequence[IpNetwork] | None,
    ) -> ExitFirewall:
        """See :class:`OperatingSystem`."""
        wall = ExitFilter(
            device, inner_networks, mtu=mtu, limits=limits, own_links_opened=opened_links
        )
        wall.install()
        return wall

    def gateways(self) -> frozenset[bytes]:
        """See :class:`OperatingSystem`."""
        return default_gateways()

    def exit_problems(self, pools: Sequence[IpNetwork]) -> list[ExitProblem]:
        """See :class:`OperatingSystem`."""
        return host_problems(pools)

    def used_networks(self) -> list[UsedNetwork]:
        """See :class:`OperatingSystem`."""
        return used_networks()

    def add_address(self, device: str, address: InnerAddress) -> None:
        """See :class:`OperatingSystem`."""
        add_address(device, address)

    def remove_address(self, device: str, address: InnerAddress) -> None:
        """See :class:`OperatingSystem`."""
        remove_address(device, address)

    def bring_up(self, device: str) -> bool:
        """See :class:`OperatingSystem`."""
        return bring_up(device)

    def own_addresses(self) -> frozenset[bytes]:
        """See :class:`OperatingSystem`."""
        return own_addresses()

    def address_towards(self, peer: Endpoint) -> IpAddress:
        """See :class:`OperatingSystem`."""
        return local_address_towards(peer, mark=NODE_MARK)

    def clear_kernel_ipsec(self) -> None:
        """See :class:`OperatingSystem`."""
        with contextlib.suppress(BackendError):  # no permission, or no packet filter
            clear_exit_leftovers()
        with contextlib.suppress(BackendError):  # no kernel IPsec, no permission, or in use
            clear_leftovers()
            # Also if there were none: a node that was killed in between left the filter.
            IpsecFirewall((), forwards=False).remove()
            clear_fragmenting_leftovers()
            clear_link_detour_leftovers()
            clear_flow_label_leftovers()

    def forget_connections(self, inner_address: InnerAddress) -> bool:
        """See :class:`OperatingSystem`."""
        return forget_connections(inner_address) is not None
