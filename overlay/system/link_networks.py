"""Cache the IPv4 networks on each device's link, and read them again after changes.

The main table may have many routes, and some may change a hundred times per second. Then the table
is read less often, and the last result is used in between. The harm is small: until the next
reading, an ARP request may pass or be dropped wrongly.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from overlay.addresses import IpNetwork
from overlay.system.host_events import (
    AddressChanged,
    HostEvent,
    LinkChanged,
    Overrun,
    RouteChanged,
)
from overlay.system.rtnetlink import MAIN_TABLE, Rtnetlink

__all__ = ["LinkNetworks"]

_ROUTES_A_QUESTION: Final = 5_000
"""Routes (5 to 20 ms of reading) for which the cached result serves one further call."""


class LinkNetworks:
    """The networks as last read; without calls of :meth:`hear`, every call reads them again."""

    def __init__(self, netlink: Rtnetlink) -> None:
        self._netlink = netlink
        self._heard = False
        self._changed = True
        self._spared = 0
        self._found: Mapping[str, frozenset[IpNetwork]] = {}

    @property
    def outdated(self) -> bool:
        """Whether there was a change after the last reading."""
        return self._heard and self._changed

    def hear(self, events: Collection[HostEvent]) -> None:
        """Process events of the host; from now on, only these cause a reading."""
        # Devices and addresses count as well, because IPv4 sends no notification about routes that
        # vanish together with them.
        self._heard = True
        self._changed = self._changed or any(
            isinstance(event, LinkChanged | AddressChanged | Overrun)
            or (isinstance(event, RouteChanged) and event.version == 4 and _is_main(event))
            for event in events
        )

    def current(self) -> Mapping[str, frozenset[IpNetwork]]:
        """Return the networks by device name; a router is a network of one address.

        Raises:
            BackendError: the routes could not be read.
        """
        if self._heard and (not self._changed or self._spared > 0):
            self._spared = max(0, self._spared - 1)
            return self._found
        self._found, count = self._netlink.on_link()
        self._changed, self._spared = False, count // _ROUTES_A_QUESTION
        return self._found


def _is_main(event: RouteChanged) -> bool:
    return event.table == MAIN_TABLE
