"""The source if the kernel carries its circuits: the kill switch, and routes to one device.

The device belongs to the backend. The backend also adds and removes the inner addresses, together
with the policies that put packets from them into circuits. IPv4 packets are fragmented before
IPsec if the kernel supports that (docs/decisions/0014). IPv6 packets are fragmented by the kernel
without help.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from overlay.addresses import OVERLAY_NETWORKS, InnerAddress, IpNetwork
from overlay.node.shells.operating_system import KernelKillSwitch
from overlay.node.shells.source_kill_switch import KillSwitchOwner
from overlay.system.fragmenting_device import FragmentingDevice

__all__ = ["KernelSource"]


class KernelSource(KillSwitchOwner):
    """Own the kill switch; implements ``overlay.node.shells.packet_shell.SourceKillSwitch``."""

    def __init__(
        self,
        open_kill_switch: Callable[[], KernelKillSwitch],
        *,
        device: str,
        path_mtu: int,
        fragmenting: FragmentingDevice | None = None,
    ) -> None:
        """Store the arguments; the kill switch is opened when it is first needed.

        Args:
            open_kill_switch: opens the kill switch of this host.
            device: device to which the routes into circuits lead.
            path_mtu: largest packet in bytes that circuits carry.
            fragmenting: device that fragments IPv4 packets to this size, or None.
        """
        super().__init__(open_kill_switch)
        self._device = device
        self._path_mtu = path_mtu
        self._fragmenting = fragmenting

    def expect(self, address: bytes) -> None:
        """Block incoming packets to an inner address except answers, before the host has it.

        The backend calls this for every address that it adds. Overlay addresses are ignored.

        Raises:
            BackendError: the kernel refused.
        """
        own = ipaddress.ip_address(address)
        if self._kill_switch is not None and not any(own in each for each in OVERLAY_NETWORKS):
            self._kill_switch.expect(InnerAddress(address))

    def carry(self, *carried: tuple[IpNetwork, InnerAddress]) -> None:
        """Send packets to destinations into circuits, with the inner addresses as their sources.

        The IPsec policy of a circuit matches this source address.

        Raises:
            BackendError: the kernel refused; the destinations stay protected.
        """
        kill_switch = self._protecting(*(destination for destination, _ in carried))
        with kill_switch.together():
            for destination, inner_address in carried:
                self._carry_one(kill_switch, destination, inner_address)

    def _carry_one(
        self, kill_switch: KernelKillSwitch, destination: IpNetwork, inner_address: InnerAddress
    ) -> None:
        cut = self._fragmenting
        if cut is None or destination.version == 6:
            kill_switch.carry(destination, self._device, inner_address, self._path_mtu)
        else:
            kill_switch.carry(
                destination, cut.name, inner_address, self._path_mtu, program=cut.program
            )

    def uncarry(self, destination: IpNetwork, inner_address: InnerAddress) -> None:  # noqa: ARG002 - the Protocol's signature; the backend holds the address
        """Stop sending packets to ``destination`` into a circuit; it stays protected.

        Raises:
            BackendError: the kernel refused. Without a policy, the filter drops the packets.
        """
        self._opened_kill_switch().uncarry(destination)
