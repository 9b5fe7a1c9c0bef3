"""The kill switch of a source, for both backends.

The kill switch remains after the process has ended, so that a crash lets no packet out in the clear
(docs/decisions/0005). Requests to block are kept here, also if the kill switch cannot be opened::

    protect ──> wanted ──opened──> blocked
                  │ └── refused: tried again at each repair, and reported by unguarded()
    release ──────┴──> free
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass

from overlay.addresses import IpNetwork
from overlay.errors import BackendError
from overlay.node.shells.operating_system import KernelKillSwitch
from overlay.system.host_events import HostEvent

__all__ = ["GUARD", "KillSwitchOwner", "UnprotectedDestinations"]

GUARD = "the guard of destinations"
"""Name of what is missing while destinations are not blocked."""


@dataclass(frozen=True, slots=True)
class UnprotectedDestinations:
    """Destinations that must be blocked or carried and are not, and why."""

    prefixes: frozenset[IpNetwork] = frozenset()
    reason: str = ""


class KillSwitchOwner:
    """Opens the kill switch when it is first needed, so that a relay needs no privilege."""

    def __init__(self, open_guard: Callable[[], KernelKillSwitch]) -> None:
        """Prepare; ``open_guard`` opens the kill switch of this host."""
        self._open_guard = open_guard
        self._guard: KernelKillSwitch | None = None
        # Whether each was blocked at least once; from then on the kill switch keeps it blocked.
        self._wanted: dict[IpNetwork, bool] = {}
        self._refusal = ""

    @property
    def is_open(self) -> bool:
        """Whether this process owns the kill switch."""
        return self._guard is not None

    def leftovers(self) -> list[IpNetwork]:
        """Return the prefixes that the kernel still blocks for an earlier process.

        The result is empty while the kill switch cannot be opened; ask again when it is open.
        """
        try:
            return self._opened_guard().protected()
        except BackendError:
            return []

    def protect(self, *destinations: IpNetwork) -> None:
        """Block ``destinations``: packets to them leave through a circuit or not at all.

        Raises:
            BackendError: no permission, no packet filter, or another node owns the kill switch.
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
        """Combine all changes inside into one change of the filters.

        Raises:
            BackendError: at the end, the kernel refused; :meth:`repair` tries again.
        """
        return contextlib.nullcontext() if self._guard is None else self._guard.together()

    def release(self, *destinations: IpNetwork) -> None:
        """Release destinations, in this order.

        Raises:
            BackendError: the kernel refused; the destination may still be blocked.
        """
        if self._guard is not None:  # otherwise nothing was ever blocked here
            self._guard.release(*destinations)
        for destination in destinations:
            self._wanted.pop(destination, None)

    def unguarded(self) -> UnprotectedDestinations:
        """Return which destinations are not blocked although they must be, and why."""
        lacking = frozenset(prefix for prefix, blocked in self._wanted.items() if not blocked)
        return UnprotectedDestinations(lacking, self._refusal if lacking else "")

    def hear(self, events: Collection[HostEvent]) -> None:
        """Process changes of the host, before :meth:`repair`."""
        if self._guard is not None:
            self._guard.hear(events)

    def disturbed(self) -> bool:
        """Tell whether something is missing for which the kernel sends no notification.

        Raises:
            BackendError: the kernel did not answer.
        """
        return self._guard is not None and self._guard.disturbed()

    def missing(self) -> tuple[str, ...]:
        """Return the names of missing parts of the kill switch.

        Raises:
            BackendError: the kernel did not answer.
        """
        lost = (GUARD,) if self.unguarded().prefixes else ()
        return (*lost, *(self._guard.missing() if self._guard is not None else ()))

    def repair(self) -> tuple[str, ...]:
        """Restore what another program removed, and return the names of the missing parts.

        Raises:
            BackendError: the kernel refused a change; all others were made.
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
        """Close the kill switch. Destinations stay blocked, and a later process takes them over."""
        if self._guard is not None:
            self._guard.close()
            self._guard = None

    def _opened_guard(self) -> KernelKillSwitch:
        if self._guard is None:
            self._guard = self._open_guard()
        return self._guard

    def _guarding(self, destination: IpNetwork) -> KernelKillSwitch:
        """Return the kill switch, with ``destination`` blocked again if the table was flushed."""
        guard = self._opened_guard()
        if destination not in guard.protected() or not self._wanted.get(destination, True):
            KillSwitchOwner.protect(self, destination)
        return guard
