"""The source's end where the kernel carries the circuits: the guard, and routes to one device.

The device belongs to the backend, which also holds the inner addresses: they come and go with
the policies that put packets from them into circuits.
"""

from __future__ import annotations

from collections.abc import Callable

from overlay.addresses import InnerAddress, IpNetwork
from overlay.errors import BackendError
from overlay.node.host import KernelGuard

__all__ = ["KernelSource"]


class KernelSource:
    """Implements ``overlay.node.packet_shell.SourceGuard``; owner of the guard."""

    def __init__(
        self, open_guard: Callable[[], KernelGuard], *, device: str, path_mtu: int
    ) -> None:
        """Prepare; the guard is opened when first needed.

        Args:
            open_guard: opens the guard of this host.
            device: where routes into circuits lead.
            path_mtu: bytes of the largest packet that circuits take.
        """
        self._open_guard = open_guard
        self._device = device
        self._path_mtu = path_mtu
        self._guard: KernelGuard | None = None

    def leftovers(self) -> list[IpNetwork]:
        """Return what the kernel still guards, though no path of this process asked for it."""
        try:
            return self._opened_guard().protected()
        except BackendError:
            return []

    def protect(self, destination: IpNetwork) -> None:
        """From now on packets to ``destination`` leave through a circuit or not at all.

        Raises:
            BackendError: no permission, or no packet filter.
        """
        self._opened_guard().protect(destination)

    def carry(self, destination: IpNetwork, inner_address: InnerAddress) -> None:
        """Let packets to ``destination`` take the source address that has a policy.

        Raises:
            BackendError: the kernel refused; the destination remains protected.
        """
        guard = self._opened_guard()
        if destination not in guard.protected():
            guard.protect(destination)  # somebody flushed our routing table
        guard.carry(destination, self._device, inner_address, self._path_mtu)

    def uncarry(self, destination: IpNetwork, inner_address: InnerAddress) -> None:  # noqa: ARG002 - the Protocol's signature; the backend holds the address
        """Stop sending them there; the guard stays.

        Raises:
            BackendError: the kernel refused. Without a policy the filter drops what is sent.
        """
        self._opened_guard().uncarry(destination)

    def release(self, destination: IpNetwork) -> None:
        """End the protection.

        Raises:
            BackendError: the kernel refused; the destination may still be blocked.
        """
        if self._guard is not None:  # else nothing was ever protected here
            self._guard.release(destination)

    def close(self) -> None:
        """Give up the guard; what is protected stays so, for a later process to take over."""
        if self._guard is not None:
            self._guard.close()
            self._guard = None

    def _opened_guard(self) -> KernelGuard:
        if self._guard is None:
            self._guard = self._open_guard()
        return self._guard
