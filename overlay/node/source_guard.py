"""What every source's end in the operating system does with the guard of destinations.

The guard outlives the process, on purpose: an unreachable route to each destination in a
routing table of our own, so that a crash turns into silence, never into a packet in the clear
(docs/decisions/0005).
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from overlay.addresses import IpNetwork
from overlay.errors import BackendError
from overlay.node.host import KernelGuard
from overlay.system.host_events import HostEvent

__all__ = ["GuardedSource"]


class GuardedSource:
    """Owner of the guard, which is opened when first needed: who only relays needs no privilege."""

    def __init__(self, open_guard: Callable[[], KernelGuard]) -> None:
        """Prepare; ``open_guard`` takes the guard of this host."""
        self._open_guard = open_guard
        self._guard: KernelGuard | None = None

    def leftovers(self) -> list[IpNetwork]:
        """Return what the kernel still guards, though no path of this process asked for it.

        A node without the privilege to guard finds nothing: it could not have left anything.
        """
        try:
            return self._opened_guard().protected()
        except BackendError:
            return []

    def release(self, *destinations: IpNetwork) -> None:
        """End the protection, in this order.

        Raises:
            BackendError: the kernel refused; the destination may still be blocked.
        """
        if self._guard is not None:  # else nothing was ever protected here
            self._guard.release(*destinations)

    def hear(self, events: Collection[HostEvent]) -> None:
        """Take note of nothing: :meth:`repair` looks at everything."""

    def disturbed(self) -> bool:
        """Tell whether something is missing that no notification tells of.

        Raises:
            BackendError: the kernel did not tell.
        """
        return self._guard is not None and self._guard.disturbed()

    def missing(self) -> tuple[str, ...]:
        """Return the names of what the kernel does not hold of the guard.

        Raises:
            BackendError: the kernel did not tell.
        """
        return self._guard.missing() if self._guard is not None else ()

    def repair(self) -> tuple[str, ...]:
        """Put back what another program removed; return the names of what was missing.

        Raises:
            BackendError: the kernel refused something; all the rest was tried.
        """
        return self._guard.repair() if self._guard is not None else ()

    def close(self) -> None:
        """Give up the guard; what is protected stays so, for a later process to take over."""
        if self._guard is not None:
            self._guard.close()
            self._guard = None

    def _opened_guard(self) -> KernelGuard:
        if self._guard is None:
            self._guard = self._open_guard()
        return self._guard

    def _guarding(self, destination: IpNetwork) -> KernelGuard:
        """Return the guard, which protects ``destination`` also if our table was flushed."""
        guard = self._opened_guard()
        if destination not in guard.protected():
            guard.protect(destination)
        return guard
