"""The source if the kernel carries its circuits: the kill switch, and routes to one device.

The device belongs to the backend. The backend also adds and removes the inner addresses, together
with the policies that put packets from them into circuits. Packets are fragmented before IPsec if
the kernel supports that: over IPv4 always, over IPv6 in circuits that were proved to carry large
packets (docs/decisions/0014 and 0054).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from overlay.addresses import OVERLAY_NETWORKS, InnerAddress, IpNetwork
from overlay.errors import BackendError
from overlay.logs import EventLog, Word
from overlay.node.shells.operating_system import KernelKillSwitch
from overlay.node.shells.source_kill_switch import KillSwitchOwner
from overlay.system.fragmenting_device import REROUTE_MARK, FragmentingDevice

__all__ = ["KernelSource"]

_log = EventLog(__name__)


class KernelSource(KillSwitchOwner):
    """Own the kill switch; implements ``overlay.node.shells.packet_shell.SourceKillSwitch``."""

    def __init__(
        self,
        open_kill_switch: Callable[[], KernelKillSwitch],
        *,
        device: str,
        path_mtu: int,
        fragmenting: FragmentingDevice | None = None,
        ask_for_mark: Callable[[bytes, int | None], None] | None = None,
    ) -> None:
        """Store the arguments; the kill switch is opened when it is first needed.

        Args:
            open_kill_switch: opens the kill switch of this host.
            device: device to which the routes into circuits lead.
            path_mtu: largest packet in bytes that every circuit carries.
            fragmenting: device that fragments packets before IPsec, or None.
            ask_for_mark: lets IPv6 policies of an inner address require the mark of that device, or
                none. If absent, no circuit takes larger packets over IPv6.
        """
        super().__init__(open_kill_switch)
        self._device = device
        self._fragmenting = fragmenting
        self._path_mtu = path_mtu
        self._ask_for_mark = ask_for_mark
        self._carried: dict[IpNetwork, tuple[InnerAddress, int]] = {}
        self.mtu_of: Callable[[IpNetwork], int] = lambda _: path_mtu
        """Returns the MTU of the path to a destination in bytes, at least ``path_mtu``."""

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
        cut, mtu = self._fragmenting, self.mtu_of(destination)
        is_ipv6 = destination.version == 6
        if cut is None or (is_ipv6 and (self._ask_for_mark is None or mtu <= self._path_mtu)):
            # Packets on the way to the device still find a policy while its route is replaced.
            if is_ipv6 and self._ask_for_mark is not None:
                self._ask_for_mark(inner_address, None)
            mtu = min(mtu, self._path_mtu)
            kill_switch.carry(destination, self._device, inner_address, mtu)
        else:
            kill_switch.carry(destination, cut.name, inner_address, mtu, program=cut.program)
            if is_ipv6 and self._ask_for_mark is not None:
                self._ask_for_mark(inner_address, REROUTE_MARK)
        self._carried[destination] = inner_address, mtu

    def resize(self) -> None:
        """Give the routes into circuits the MTUs that their paths have now.

        A route that the kernel refuses keeps its MTU until the next call.
        """
        for destination, (inner_address, mtu) in list(self._carried.items()):
            if self.mtu_of(destination) != mtu:
                try:
                    self.carry((destination, inner_address))
                except BackendError as error:
                    _log.warning("kernel.mtu_not_changed", reason=Word(error))

    def uncarry(self, destination: IpNetwork, inner_address: InnerAddress) -> None:  # noqa: ARG002 - the Protocol's signature; the backend holds the address
        """Stop sending packets to ``destination`` into a circuit; it stays protected.

        Raises:
            BackendError: the kernel refused. Without a policy, the filter drops the packets.
        """
        self._carried.pop(destination, None)
        self._opened_kill_switch().uncarry(destination)
