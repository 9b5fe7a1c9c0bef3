"""The source's end where the kernel carries the circuits: the guard, and routes to one device.

The device belongs to the backend, which also holds the inner addresses: they come and go with
the policies that put packets from them into circuits. Packets over IPv4 are cut first where the
kernel can do it (docs/decisions/0014); those over IPv6 it cuts by itself.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from overlay.addresses import OVERLAY_NETWORKS, InnerAddress, IpNetwork
from overlay.node.operating_system import KernelKillSwitch
from overlay.node.source_kill_switch import KillSwitchOwner
from overlay.system.fragmenting_device import FragmentingDevice

__all__ = ["KernelSource"]


class KernelSource(KillSwitchOwner):
    """Implements ``overlay.node.packet_shell.SourceKillSwitch``; owner of the guard."""

    def __init__(
        self,
        open_guard: Callable[[], KernelKillSwitch],
        *,
        device: str,
        path_mtu: int,
        fragmenting: FragmentingDevice | None = None,
    ) -> None:
        """Prepare; the guard is opened when first needed.

        Args:
            open_guard: opens the guard of this host.
            device: where routes into circuits lead.
            path_mtu: bytes of the largest packet that circuits take.
            fragmenting: where packets over IPv4 are cut to that, if they can be.
        """
        super().__init__(open_guard)
        self._device = device
        self._path_mtu = path_mtu
        self._fragmenting = fragmenting

    def expect(self, address: bytes) -> None:
        """Close this host to all but answers, before it holds an inner address.

        Other addresses that the backend is about to add are no concern of the guard.

        Raises:
            BackendError: the kernel refused.
        """
        own = ipaddress.ip_address(address)
        if self._guard is not None and not any(own in each for each in OVERLAY_NETWORKS):
            self._guard.expect(InnerAddress(address))

    def carry(self, destination: IpNetwork, inner_address: InnerAddress) -> None:
        """Let packets to ``destination`` take the source address that has a policy.

        Raises:
            BackendError: the kernel refused; the destination remains protected.
        """
        guard, cut = self._guarding(destination), self._fragmenting
        if cut is None or destination.version == 6:
            guard.carry(destination, self._device, inner_address, self._path_mtu)
        else:
            guard.carry(destination, cut.name, inner_address, self._path_mtu, program=cut.program)

    def uncarry(self, destination: IpNetwork, inner_address: InnerAddress) -> None:  # noqa: ARG002 - the Protocol's signature; the backend holds the address
        """Stop sending them there; the guard stays.

        Raises:
            BackendError: the kernel refused. Without a policy the filter drops what is sent.
        """
        self._opened_guard().uncarry(destination)
