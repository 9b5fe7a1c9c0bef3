"""The source's end in the operating system: one TUN device and the guard of destinations.

The TUN device appears with the first path and dies with the process. What outlives the
process, on purpose, is the guard: an unreachable route to each destination in a routing
table of our own, so that a crash turns into silence, never into a packet in the clear
(docs/decisions/0005).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from overlay.addresses import InnerAddress, IpNetwork
from overlay.errors import BackendError, InternalError
from overlay.system.destination_guard import DestinationGuard
from overlay.system.rtnetlink import add_address, remove_address
from overlay.system.tun import TunDevice

__all__ = ["SourceSide"]


class SourceSide:
    """Implements ``overlay.node.paths.Guard`` on the kernel; owner of the source TUN.

    Everything is opened when first needed: a node that only relays needs no privilege.
    """

    def __init__(self, open_device: Callable[[], TunDevice], *, path_mtu: int) -> None:
        self._open_device = open_device
        self._path_mtu = path_mtu
        self._users: Counter[InnerAddress] = Counter()
        self._guard: DestinationGuard | None = None
        self._device: TunDevice | None = None

    def leftovers(self) -> list[IpNetwork]:
        """Return what the kernel still guards, though no path of this process asked for it.

        A node without the privilege to guard finds nothing: it could not have left anything.
        """
        try:
            return self._opened_guard().protected()
        except BackendError:
            return []

    def protect(self, destination: IpNetwork) -> None:
        """From now on packets to ``destination`` leave through a circuit or not at all.

        Raises:
            BackendError: no permission, no TUN device, no packet filter.
        """
        if self._device is None:
            self._device = self._open_device()
        self._opened_guard().protect(destination)

    def carry(self, destination: IpNetwork, inner_address: InnerAddress) -> None:
        """Send packets to ``destination`` into the TUN, from the address that the exit lent."""
        device = self._protected_device()
        if not self._users[inner_address]:
            add_address(device.name, inner_address)
        self._users[inner_address] += 1
        self._opened_guard().carry(destination, device.name, inner_address, self._path_mtu)

    def uncarry(self, destination: IpNetwork, inner_address: InnerAddress) -> None:
        """Stop sending them there; the guard stays."""
        device = self._protected_device()
        self._opened_guard().uncarry(destination)
        self._users[inner_address] -= 1
        if self._users[inner_address] <= 0:
            del self._users[inner_address]
            remove_address(device.name, inner_address)

    def release(self, destination: IpNetwork) -> None:
        """End the protection."""
        self._opened_guard().release(destination)

    def close(self) -> None:
        """Close the device; what is still guarded stays so, for a later process to take over."""
        for opened in (self._device, self._guard):
            if opened is not None:
                opened.close()
        self._device = self._guard = None

    def _protected_device(self) -> TunDevice:
        if self._device is None:
            raise InternalError("a destination is carried that was never protected")
        return self._device

    def _opened_guard(self) -> DestinationGuard:
        if self._guard is None:
            self._guard = DestinationGuard()
        return self._guard
