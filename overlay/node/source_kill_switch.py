"""What every source's end in the operating system does with the guard of destinations.

The guard outlives the process, on purpose: an unreachable route to each destination in a
routing table of our own, so that a crash turns into silence, never into a packet in the clear
(docs/decisions/0005).

What shall be blocked is remembered here, whether the guard can be had or not::

    protect ──> wanted ──guard opened──> blocked
                  │ └── refused: tried again at each repair, and told by unguarded()
    release ──────┴──> free
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass

from overlay.addresses import IpNetwork
from overlay.errors import BackendError
from overlay.node.operating_system import KernelKillSwitch
from overlay.system.host_events import HostEvent

__all__ = ["GUARD", "KillSwitchOwner", "UnprotectedDestinations"]

GUARD = "the guard of destinations"
"""Name of what is missing while destinations are not blocked."""


@dataclass(frozen=True, slots=True)
class UnprotectedDestinations:
    """Destinations that shall be blocked or carried and are not, and why."""

    prefixes: frozenset[IpNetwork] = frozenset()
    reason: str = ""


class KillSwitchOwner:
    """Owner of the guard. It is opened when first needed, so a relay needs no privilege."""

    def __init__(self, open_guard: Callable[[], KernelKillSwitch]) -> None:
        """Prepare; ``open_guard`` takes the guard of this host."""
        self._open_guard = open_guard
        self._guard: KernelKillSwitch | None = None
        # Whether each was blocked at least once; from then on the guard keeps it so.
        self._wanted: dict[IpNetwork, bool] = {}
        self._refusal = ""

    @property
    def is_open(self) -> bool:
        """Whether this process owns the guard."""
        return self._guard is not None

    def leftovers(self) -> list[IpNetwork]:
        """Return what the kernel still guards, though no path of this process asked for it.

        Nothing is found as long as the guard cannot be had; ask again when it is open.
        """
        try:
            return self._opened_guard().protected()
        except BackendError:
            return []

    def protect(self, *destinations: IpNetwork) -> None:
        """From now on packets to ``destinations`` leave through a circuit or not at all.

        Raises:
            BackendError: no permission, no packet filter, or another node has the guard.
                :meth:`repair` tries again until they are released.
        """
        for destination in destinations:
            self._wanted.setdefault(destination, False)
        try:
            self._opened_guard().protect(*destinations)
        except BackendError as error:
            self._refusal = str(error)
            raise
        self._wanted.update(dict.fromkeys(destinations, True))

    def together(self) -> AbstractContextManager[None]:
        """Change the filters once for all that is uncarried inside.

        Raises:
            BackendError: at the end, the kernel refused; :meth:`repair` tries again.
        """
        return contextlib.nullcontext() if self._guard is None else self._guard.together()

    def release(self, *destinations: IpNetwork) -> None:
        """End the protection, in this order.

        Raises:
            BackendError: the kernel refused; the destination may still be blocked.
        """
        if self._guard is not None:  # else nothing was ever protected here
            self._guard.release(*destinations)
        for destination in destinations:
            self._wanted.pop(destination, None)

    def unguarded(self) -> UnprotectedDestinations:
        """Return which destinations are not blocked though they shall be, and why."""
        lacking = frozenset(prefix for prefix, blocked in self._wanted.items() if not blocked)
        return UnprotectedDestinations(lacking, self._refusal if lacking else "")

    def hear(self, events: Collection[HostEvent]) -> None:
        """Take note of what changed on the host, before :meth:`repair`."""
        if self._guard is not None:
            self._guard.hear(events)

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
        lost = (GUARD,) if self.unguarded().prefixes else ()
        return (*lost, *(self._guard.missing() if self._guard is not None else ()))

    def repair(self) -> tuple[str, ...]:
        """Put back what another program removed; return the names of what was missing.

        Raises:
            BackendError: the kernel refused something; all the rest was tried.
        """
        lacking = self.unguarded().prefixes
        refusal: BackendError | None = None
        if lacking:
            # In the order of the requests: the first prefix of a blocked IP version marks it.
            try:
                KillSwitchOwner.protect(self, *(each for each in self._wanted if each in lacking))
            except BackendError as error:
                refusal = error
        lost = self._guard.repair() if self._guard is not None else ()
        if refusal is not None:
            raise refusal
        return (*((GUARD,) if lacking else ()), *lost)

    def close(self) -> None:
        """Give up the guard; what is protected stays so, for a later process to take over."""
        if self._guard is not None:
            self._guard.close()
            self._guard = None

    def _opened_guard(self) -> KernelKillSwitch:
        if self._guard is None:
            self._guard = self._open_guard()
        return self._guard

    def _guarding(self, destination: IpNetwork) -> KernelKillSwitch:
        """Return the guard, which protects ``destination`` also if our table was flushed."""
        guard = self._opened_guard()
        if destination not in guard.protected() or not self._wanted.get(destination, True):
            KillSwitchOwner.protect(self, destination)
        return guard
