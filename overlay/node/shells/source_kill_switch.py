"""The kill switch of a source, for both backends.

The kill switch remains after the process has ended, so that a crash lets no packet out in the clear
(docs/decisions/0005). Requests to block are kept here, also if the kill switch cannot be opened::

    protect ──> wanted ──opened──> blocked
                  │ └── refused: tried again at each repair, and reported by unprotected()
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

__all__ = ["KILL_SWITCH", "KillSwitchOwner", "UnprotectedDestinations"]

KILL_SWITCH = "the kill switch"
"""Name of what is missing while destinations are not blocked."""


@dataclass(frozen=True, slots=True)
class UnprotectedDestinations:
    """Destinations that must be blocked or carried and are not, and why."""

    prefixes: frozenset[IpNetwork] = frozenset()
    reason: str = ""


class KillSwitchOwner:
    """Opens the kill switch when it is first needed, so that a relay needs no privilege."""

    def __init__(self, open_kill_switch: Callable[[], KernelKillSwitch]) -> None:
        """Prepare; ``open_kill_switch`` opens the kill switch of this host."""
        self._open_kill_switch = open_kill_switch
        self._kill_switch: KernelKillSwitch | None = None
        # Whether each was blocked at least once; from then on the kill switch keeps it blocked.
        self._wanted: dict[IpNetwork, bool] = {}
        self._refusal = ""

    @property
    def is_open(self) -> bool:
        """Whether this process owns the kill switch."""
        return self._kill_switch is not None

    def leftovers(self) -> list[IpNetwork]:
        """Return the prefixes that the kernel still blocks for an earlier process.

        The result is empty while the kill switch cannot be opened; ask again when it is open.
        """
        try:
            return self._opened_kill_switch().protected()
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
            self._opened_kill_switch().protect(*destinations)
        except BackendError as error:
            self._refusal = str(error)
            raise
        self._wanted.update(dict.fromkeys(destinations, True))

    def together(self) -> AbstractContextManager[None]:
        """Combine all changes inside into one change of the filters.

        Raises:
            BackendError: at the end, the kernel refused; :meth:`repair` tries again.
        """
        return (
            contextlib.nullcontext() if self._kill_switch is None else self._kill_switch.together()
        )

    def release(self, *destinations: IpNetwork) -> None:
        """Release destinations, in this order.

        Raises:
            BackendError: the kernel refused; the destination may still be blocked.
        """
        if self._kill_switch is not None:  # otherwise nothing was ever blocked here
            self._kill_switch.release(*destinations)
        for destination in destinations:
            self._wanted.pop(destination, None)

    def unprotected(self) -> UnprotectedDestinations:
        """Return which destinations are not blocked although they must be, and why."""
        lacking = frozenset(prefix for prefix, blocked in self._wanted.items() if not blocked)
        return UnprotectedDestinations(lacking, self._refusal if lacking else "")

    def hear(self, events: Collection[HostEvent]) -> None:
        """Process changes of the host, before :meth:`repair`."""
        if self._kill_switch is not None:
            self._kill_switch.hear(events)

    def disturbed(self) -> bool:
        """Tell whether something is missing for which the kernel sends no notification.

        Raises:
            BackendError: the kernel did not answer.
        """
        return self._kill_switch is not None and self._kill_switch.disturbed()

    def missing(self) -> tuple[str, ...]:
        """Return the names of missing parts of the kill switch.

        Raises:
            BackendError: the kernel did not answer.
        """
        lost = (KILL_SWITCH,) if self.unprotected().prefixes else ()
        return (*lost, *(self._kill_switch.missing() if self._kill_switch is not None else ()))

    def repair(self) -> tuple[str, ...]:
        """Restore what another program removed, and return the names of the missing parts.

        Raises:
            BackendError: the kernel refused a change; all others were made.
        """
        lacking = self.unprotected().prefixes
        refusal: BackendError | None = None
        if lacking:
            # In the order of the requests: the first prefix of a blocked IP version marks it.
            try:
                KillSwitchOwner.protect(self, *(each for each in self._wanted if each in lacking))
            except BackendError as error:
                refusal = error
        lost = self._kill_switch.repair() if self._kill_switch is not None else ()
        if refusal is not None:
            raise refusal
        return (*((KILL_SWITCH,) if lacking else ()), *lost)

    def close(self) -> None:
        """Close the kill switch. Destinations stay blocked, and a later process takes them over."""
        if self._kill_switch is not None:
            self._kill_switch.close()
            self._kill_switch = None

    def _opened_kill_switch(self) -> KernelKillSwitch:
        if self._kill_switch is None:
            self._kill_switch = self._open_kill_switch()
        return self._kill_switch

    def _protecting(self, *destinations: IpNetwork) -> KernelKillSwitch:
        """Return the kill switch, with destinations blocked again if the table was flushed."""
        kill_switch = self._opened_kill_switch()
        protected = set(kill_switch.protected())
        lacking = [d for d in destinations if d not in protected or not self._wanted.get(d, True)]
        if lacking:
            KillSwitchOwner.protect(self, *lacking)
        return kill_switch
