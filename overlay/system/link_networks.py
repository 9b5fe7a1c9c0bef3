"""The IPv4 networks on each device's link, read from the main table when they may have changed.

A main table may have many routes, and a host may change some of them a hundred times a second.
Then readings come more rarely, and in between the last one counts. That is harmless for what it
is used for: a wrong answer lets an ARP request pass, or holds one back, until the next reading.
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
"""A reading of so many routes (5 to 20 ms) is worth one question that is answered without one."""


class LinkNetworks:
    """The last reading; without :meth:`hear`, every question reads anew."""

    def __init__(self, netlink: Rtnetlink) -> None:
        self._netlink = netlink
        self._heard = False
        self._changed = True
        self._spared = 0
        self._found: Mapping[str, frozenset[IpNetwork]] = {}

    @property
    def outdated(self) -> bool:
        """Whether a change was heard of that no reading followed yet."""
        return self._heard and self._changed

    def hear(self, events: Collection[HostEvent]) -> None:
        """Take note of changes of the host; from now on these are the reason to read."""
        # IPv4 does not tell of routes that vanish with a device or an address.
        self._heard = True
        self._changed = self._changed or any(
            isinstance(event, LinkChanged | AddressChanged | Overrun)
            or (isinstance(event, RouteChanged) and event.version == 4 and _is_main(event))
            for event in events
        )

    def current(self) -> Mapping[str, frozenset[IpNetwork]]:
        """Return the networks by the device's name, routers as networks of one address.

        Raises:
            BackendError: the kernel did not tell.
        """
        if self._heard and (not self._changed or self._spared > 0):
            self._spared = max(0, self._spared - 1)
            return self._found
        self._found, count = self._netlink.on_link()
        self._changed, self._spared = False, count // _ROUTES_A_QUESTION
        return self._found


def _is_main(event: RouteChanged) -> bool:
    return event.table == MAIN_TABLE
