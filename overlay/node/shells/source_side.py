"""The source in the operating system: one TUN device and the kill switch.

The TUN device appears with the first path and vanishes with the process. The kill switch remains
(:mod:`overlay.node.shells.source_kill_switch`).
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from typing import Final

from overlay.addresses import InnerAddress, IpNetwork
from overlay.errors import BackendError
from overlay.node.shells.operating_system import OperatingSystem, Tun
from overlay.node.shells.source_kill_switch import KillSwitchOwner

__all__ = ["SourceDevice"]

_DEVICE: Final = "circuit device"
_ADDRESSES: Final = "inner addresses"


class SourceDevice(KillSwitchOwner):
    """Implements ``overlay.paths.paths.KillSwitchService`` on a host, with a TUN device.

    Everything is opened when it is first needed, so that a relay needs no privilege.
    """

    def __init__(
        self,
        host: OperatingSystem,
        *,
        device_mtu: int,
        path_mtu: int,
        segment_bytes: int,
        device_opened: Callable[[Tun], None],
    ) -> None:
        """Prepare; nothing is opened yet.

        Args:
            host: creates the device and the kill switch.
            device_mtu: bytes of the largest packet that the TUN device takes.
            path_mtu: bytes of the largest packet that circuits take.
            segment_bytes: size of a TCP segment in a circuit, IP header included.
            device_opened: called with the TUN device when it was opened.
        """
        super().__init__(lambda: host.open_kill_switch())
        self._host = host
        self._device_mtu = device_mtu
        self._path_mtu = path_mtu
        self._segment_bytes = segment_bytes
        self._device_opened = device_opened
        self._users: Counter[InnerAddress] = Counter()
        self._device: Tun | None = None

    def protect(self, *destinations: IpNetwork) -> None:
        """Block ``destinations``: packets to them leave through a circuit or not at all.

        Raises:
            BackendError: no permission, no TUN device, no packet filter.
        """
        # The kill switch comes first, so that a host without a TUN device blocks as well.
        super().protect(*destinations)
        self._opened_device()

    def carry(self, *carried: tuple[IpNetwork, InnerAddress]) -> None:
        """Send packets to destinations into the TUN, each from the address that its exit lent.

        Raises:
            BackendError: the kernel refused; the destinations remain protected.
        """
        device = self._opened_device()
        kill_switch = self._protecting(*(destination for destination, _ in carried))
        with kill_switch.together():
            for _, inner_address in carried:
                kill_switch.expect(inner_address, device.name)
        held: list[InnerAddress] = []
        try:
            for _, inner_address in carried:
                self._hold_address(device, inner_address)
                held.append(inner_address)
            with kill_switch.together():
                for destination, inner_address in carried:
                    kill_switch.carry(destination, device.name, inner_address, self._path_mtu)
        except BaseException:
            for inner_address in held:
                with contextlib.suppress(BackendError):
                    self._drop_address(inner_address)
            raise

    def uncarry(self, destination: IpNetwork, inner_address: InnerAddress) -> None:
        """Stop sending them there; the destination stays blocked.

        Raises:
            BackendError: the kernel refused. Packets that still enter the device are dropped,
                because no circuit takes them.
        """
        try:
            # The filter stays as long as this host has the address.
            self._drop_address(inner_address)
        finally:
            self._opened_kill_switch().uncarry(destination)

    def missing(self) -> tuple[str, ...]:
        """Return the names of missing kernel state, inner addresses included.

        Raises:
            BackendError: the kernel did not answer.
        """
        named = self._device is None or self._device.in_place
        device = () if named else (_DEVICE,)
        addresses = (_ADDRESSES,) if self._lost_addresses() else ()
        return (*device, *addresses, *super().missing())

    def repair(self) -> tuple[str, ...]:
        """Restore what another program removed, inner addresses included.

        The reader of a device reports its loss (:meth:`device_lost`). A device that another
        program renamed or moved is closed here, so that its reader reports it too.

        Raises:
            BackendError: the kernel refused a change; all others were made.
        """
        lost: list[str] = []
        if self._device is not None and not self._device.in_place:
            self._device.close()
            lost.append(_DEVICE)
        elif self._device is not None:
            with contextlib.suppress(BackendError):
                if self._host.bring_up(self._device.name):
                    lost.append(_DEVICE)
                for address in self._lost_addresses():
                    self._host.add_address(self._device.name, address)
                    lost.append(_ADDRESSES)
        return tuple(dict.fromkeys((*lost, *super().repair())))

    def _lost_addresses(self) -> list[InnerAddress]:
        if not self._users:
            return []
        held = self._host.own_addresses()
        return [address for address in self._users if address not in held]

    def device_lost(self) -> None:
        """Forget a device that another program removed; the next circuit gets a new one."""
        device, self._device = self._device, None
        self._users.clear()
        if device is not None:
            device.close()

    def close(self) -> None:
        """Close the device, then the kill switch; destinations stay blocked."""
        device, self._device = self._device, None
        if device is not None:
            device.close()
        super().close()

    def _hold_address(self, device: Tun, address: InnerAddress) -> None:
        if not self._users[address]:
            self._host.add_address(device.name, address)
        self._users[address] += 1

    def _drop_address(self, address: InnerAddress) -> None:
        """Remove an address from the device after its last use, if the device still exists."""
        self._users[address] -= 1
        if self._users[address] > 0:
            return
        del self._users[address]
        if self._device is not None:
            self._host.remove_address(self._device.name, address)

    def _opened_device(self) -> Tun:
        if self._device is None:
            self._device = self._host.open_tun("anon%d", self._device_mtu, self._segment_bytes)
            self._device_opened(self._device)
        return self._device
