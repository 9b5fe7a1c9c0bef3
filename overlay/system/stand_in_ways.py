"""Routes to the stand-ins on hosts without a default route.

A program sends its answer for a protected host to the stand-in. The kernel routes this packet
before it translates the address, usually over the default route. On a host without a default
route, only neighbours can be protected hosts that send something. So the main table gets a route to
the stand-in over the device towards a protected neighbour. Its source address is the one for that
neighbour, so the answer comes from the address that the neighbour used.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Iterator
from typing import Final

from overlay.addresses import IpAddress, IpNetwork
from overlay.system.marks import ANSWER_MARK, STAND_INS
from overlay.system.rtnetlink import MAIN_TABLE, Route, RouteKind, Rtnetlink

__all__ = ["StandInWays"]

_METRIC: Final = 0x7FFFFFFF

_AFAR: Final[dict[int, IpAddress]] = {
    4: ipaddress.ip_address("192.0.0.9"),
    6: ipaddress.ip_address("100:0:0:1::9"),
}
"""Addresses that only a default route reaches; nothing is sent to them."""

_MOST_ASKED: Final = 64
"""Limit of neighbours for which the route is read from the kernel; one query takes under 1 ms."""


class StandInWays:
    """The stand-in routes of one kill switch; each call reads the kernel's routes again."""

    def __init__(self, netlink: Rtnetlink) -> None:
        self._netlink = netlink
        self._set: dict[int, Route] = {}
        self._outside: dict[int, str] = {}

    @property
    def outside(self) -> tuple[str, ...]:
        """The devices of the default routes at the last :meth:`set`."""
        return tuple(dict.fromkeys(self._outside.values()))

    def set(self, routes: Iterable[Route], on_link: Collection[IpNetwork]) -> tuple[int, ...]:
        """Set the stand-in routes that are necessary, and remove the others.

        Args:
            routes: the routes of the kill switch.
            on_link: IPv4 networks of this host's links.

        Returns:
            The IP versions of protected hosts for which this host has no default route.

        Raises:
            BackendError: the kernel refused.
        """
        given = list(routes)
        self._outside = self._defaults(given)
        needed = self._needed(given, on_link)
        for version in _versions(given):
            way = needed.get(version)
            if way is not None and way.device is not None:
                self._netlink.put_route(way)
            else:
                self.remove(version)
        self._set = needed
        return tuple(sorted(needed))

    def changed(self, routes: Iterable[Route], on_link: Collection[IpNetwork]) -> bool:
        """Tell whether :meth:`set` would now choose other routes or devices."""
        given = list(routes)
        if self._defaults(given) != self._outside:
            return True
        return self._needed(given, on_link) != self._set

    def remove(self, version: int) -> None:
        """Remove the route of an IP version; it need not exist."""
        self._set.pop(version, None)
        self._netlink.delete_route(_way(version))

    def _defaults(self, routes: list[Route]) -> dict[int, str]:
        ways = {v: self._netlink.way_to(_AFAR[v], ANSWER_MARK) for v in _versions(routes)}
        return {version: way[0] for version, way in ways.items() if way is not None}

    def _needed(self, routes: list[Route], on_link: Collection[IpNetwork]) -> dict[int, Route]:
        """Return a route for each IP version without a default route.

        A route has no device if no protected host is a neighbour.
        """
        needed = {}
        carrying = {route.device for route in routes if route.device is not None}
        for version in _versions(routes):
            if self._netlink.way_to(_AFAR[version], ANSWER_MARK) is not None:
                continue
            needed[version] = _way(version)
            for neighbour in _neighbours(routes, on_link, version):
                way = self._netlink.way_to(neighbour, ANSWER_MARK)
                if way is not None and way[0] not in carrying:
                    needed[version] = _way(version, *way)
                    break
        return needed


def _way(version: int, device: str | None = None, source: IpAddress | None = None) -> Route:
    stand_in = ipaddress.ip_network(STAND_INS[version])
    return Route(stand_in, RouteKind.UNICAST, MAIN_TABLE, _METRIC, device, source)


def _versions(routes: Iterable[Route]) -> list[int]:
    return sorted({route.destination.version for route in routes})


def _neighbours(
    routes: Iterable[Route], on_link: Collection[IpNetwork], version: int
) -> Iterator[IpAddress]:
    """Yield an address of each protected prefix, and of each on-link network that overlaps one."""
    prefixes = dict.fromkeys(r.destination for r in routes if r.destination.version == version)
    for prefix in list(prefixes)[:_MOST_ASKED]:
        yield prefix[min(1, prefix.num_addresses - 1)]
    same = sorted((each for each in on_link if each.version == version), key=str)
    for network in same[:_MOST_ASKED]:
        if any(network.overlaps(prefix) for prefix in prefixes):
            yield network[min(1, network.num_addresses - 1)]
