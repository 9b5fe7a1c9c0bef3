"""Change and read the kernel's addresses, routes and rules; this module alone uses pyroute2.

pyroute2 makes the changes, and its exceptions become :class:`~overlay.errors.BackendError`.
``overlay.system.route_dump`` reads the state. pyroute2's synchronous calls run their own asyncio
event loop. They may be called in a trio program, because each returns within a few milliseconds and
``asyncio.get_running_loop()`` does not find trio. The owner must close the socket.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import ipaddress
import socket
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final, Self

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from overlay.addresses import IpAddress, IpNetwork
from overlay.errors import BackendError
from overlay.packet_sizes import SEGMENT_MTU
from overlay.system.failures import refused
from overlay.system.kernel_settings import read_setting
from overlay.system.route_dump import (
    ListedRoute,
    default_hops,
    dumped_routes,
    dumped_rules,
    networks_on_link,
    route_question,
)
from overlay.system.upper_devices import through_lower_devices, upper_devices

__all__ = [
    "MAIN_TABLE",
    "ROUTE_PROTOCOL",
    "MarkRule",
    "Route",
    "RouteKind",
    "Rtnetlink",
    "add_address",
    "device_names",
    "insist_on_ipv6",
    "remove_address",
]

MAIN_TABLE: Final = 254

ROUTE_PROTOCOL: Final = 0x6D
"""The rtm_protocol of all our routes and rules, by which a new process finds leftovers."""

_ABSENT: Final = frozenset((errno.ESRCH, errno.ENOENT, errno.EADDRNOTAVAIL, errno.ENODEV))
_IFA_F_NODAD: Final = 0x02
_IFA_F_NOPREFIXROUTE: Final = 0x200
_NUD_INCOMPLETE: Final = 0x01
"""State of a neighbour entry without an answer so far (linux/neighbour.h)."""
_SCOPE_HOST: Final = 254
_FIB_RULE_INVERT: Final = 0x02
_TO_TABLE: Final = 1
"""FR_ACT_TO_TBL."""
_LOCAL_TABLE: Final = 255
"""RT_TABLE_LOCAL."""


class RouteKind(enum.Enum):
    """What the kernel does with a packet (rtnetlink's rtm_type)."""

    UNICAST = 1
    UNREACHABLE = 7
    THROW = 9
    """Continue with the next rule, as if the table had no route to the destination."""


@dataclass(frozen=True, slots=True)
class Route:
    """One of our routes. The metric is part of its identity; the kernel prefers lower metrics.

    ``mtu`` in bytes also determines the MSS that TCP announces, which is for packets of at most
    ``SEGMENT_MTU`` bytes. With 0, both follow the device. ``rerouted`` is set if a program reroutes
    packets before they reach the device (``overlay.system.reroute_program``).
    """

    destination: IpNetwork
    kind: RouteKind
    table: int
    metric: int
    device: str | None = None
    source: IpAddress | None = None
    mtu: int = 0
    rerouted: bool = False


@dataclass(frozen=True, slots=True)
class MarkRule:
    """A routing rule that looks up packets with a firewall mark in a table.

    If ``others`` is set, it matches all packets except those with the mark. Only the bits of
    ``mask`` are compared.
    """

    version: int
    preference: int
    mark: int
    table: int
    others: bool = False
    mask: int = 0xFFFFFFFF


# Large: one method for each request to the kernel.
class Rtnetlink:
    """A netlink socket of this network namespace; a context manager.

    All changes are idempotent. Adding something that exists is not an error, nor is removing
    something that does not.
    """

    def __init__(self) -> None:
        with _translated("opening a netlink socket"):
            self._netlink: Any = IPRoute()

    def close(self) -> None:
        """Close the socket; routes, rules and addresses stay in the kernel."""
        self._netlink.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add_address(self, device: str, address: IpAddress, *, hidden: bool = False) -> None:
        """Add an address to a device; it is usable at once (no duplicate address detection).

        The kernel does not choose a ``hidden`` address as a source unless a route or program names
        it. ARP does not answer for it if ``arp_ignore`` is 3 (IPv4).

        Raises:
            BackendError: the device does not exist, IPv6 is disabled on it, or a permission is
                missing.
        """
        if address.version == 6:
            insist_on_ipv6(device)
        arguments = _address_arguments(device, address)
        if hidden and address.version == 4:
            arguments["scope"] = _SCOPE_HOST
        elif hidden:  # otherwise ``main`` would get a route that sends forwarded packets here
            arguments["flags"] |= _IFA_F_NOPREFIXROUTE
        with _translated(f"adding an address to {device}"):
            self._netlink.addr("replace", **arguments)

    def remove_address(self, device: str, address: IpAddress) -> None:
        """Remove an address from a device; neither needs to exist."""
        with _translated(f"removing an address from {device}", absent_is_fine=True):
            self._netlink.addr("del", **_address_arguments(device, address))

    def put_route(self, route: Route, program: int | None = None) -> None:
        """Install a route, or replace the one with the same destination, table and metric.

        Args:
            route: the route.
            program: file descriptor of the program, if the route is ``rerouted``.

        Raises:
            BackendError: the kernel refused.
        """
        with _translated("installing a route"):
            self._netlink.route("replace", **_route_arguments(route), **_program(program))

    def delete_route(self, route: Route) -> None:
        """Delete the route with this destination, table, kind and metric; it need not exist."""
        with _translated("deleting a route", absent_is_fine=True):
            arguments = _route_arguments(route)
            for what_may_differ in ("oif", "prefsrc", "metrics"):
                arguments.pop(what_may_differ, None)
            self._netlink.route("del", **arguments)

    def routes(self, table: int) -> list[Route]:
        """Return our routes in a table, of both IP versions."""
        with _translated("listing routes"), route_question() as question:
            return [
                route
                for version in (4, 6)
                for listed in dumped_routes(question, version, table, ROUTE_PROTOCOL)
                if (route := _as_route(listed, table)) is not None
            ]

    def default_route_devices(self, version: int) -> list[str]:
        """Return the devices of the main table's default routes, for IP version 4 or 6."""
        with _translated("listing routes"), route_question() as question:
            hops = default_hops(question, version, MAIN_TABLE)
            names = dict(socket.if_nameindex())  # a device may have been deleted meanwhile
        return list(dict.fromkeys(names[hop.device] for hop in hops if hop.device in names))

    def default_gateways(self, version: int) -> list[IpAddress]:
        """Return the routers of the main table's default routes, for IP version 4 or 6."""
        with _translated("listing routes"), route_question() as question:
            hops = default_hops(question, version, MAIN_TABLE)
        routers = dict.fromkeys(hop.router for hop in hops if hop.router)
        return [ipaddress.ip_address(each) for each in routers if each]

    def on_link(self) -> tuple[dict[str, frozenset[IpNetwork]], int]:
        """Return the IPv4 networks and routers on each device's link, and the number of routes.

        Networks on the link of a bridge or a VLAN also count for the devices below it.
        """
        with _translated("listing routes"), route_question() as question:
            found, count = networks_on_link(question, MAIN_TABLE)
            found = through_lower_devices(found, upper_devices(question))
            names = dict(socket.if_nameindex())
        return {names[i]: frozenset(each) for i, each in found.items() if i in names}, count

    def way_to(self, address: IpAddress, mark: int) -> tuple[str, IpAddress] | None:
        """Return device and source address of this host's packets to ``address``, or None.

        Args:
            address: the destination.
            mark: firewall mark of the packets.
        """
        family = _family(address.version)
        try:
            answer = self._netlink.route("get", dst=str(address), family=family, mark=mark)
            index = answer[0].get_attr("RTA_OIF")
            source = answer[0].get_attr("RTA_PREFSRC")
            if answer[0]["type"] != RouteKind.UNICAST.value or not source:
                return None
            return socket.if_indextoname(index), ipaddress.ip_address(source)
        except (NetlinkError, OSError, IndexError, TypeError):
            return None

    def end_neighbour_questions(self, networks: Collection[IpNetwork]) -> None:
        """Delete neighbour entries without an answer for addresses in ``networks``.

        For each of them, Linux would send up to three ARP requests or neighbour solicitations,
        one second apart (``mcast_solicit``, ``retrans_time_ms``).
        """
        with _translated("deleting neighbour entries", absent_is_fine=True):
            for entry in self._netlink.get_neighbours():
                target = entry.get_attr("NDA_DST")
                if target is None or entry["state"] != _NUD_INCOMPLETE:
                    continue
                address = ipaddress.ip_address(target)
                if any(address in each for each in networks if each.version == address.version):
                    self._netlink.neigh("del", dst=target, ifindex=entry["ifindex"])

    def add_rule(self, rule: MarkRule) -> None:
        """Install a rule.

        Raises:
            BackendError: the kernel has no policy routing, or a permission is missing.
        """
        with _translated("adding a routing rule", present_is_fine=True):
            self._netlink.rule("add", **_rule_arguments(rule))

    def delete_rule(self, rule: MarkRule) -> None:
        """Delete one of our rules; it need not exist."""
        with _translated("deleting a routing rule", absent_is_fine=True):
            self._netlink.rule("del", **_rule_arguments(rule))

    def has_rule(self, rule: MarkRule) -> bool:
        """Tell whether exactly this rule exists."""
        wanted = (
            _TO_TABLE,
            rule.preference,
            rule.mark & rule.mask,
            rule.mask,
            rule.table,
            ROUTE_PROTOCOL,
        )
        with _translated("listing routing rules"), route_question() as question:
            return any(
                listed[:6] == wanted
                and bool(listed.flags & _FIB_RULE_INVERT) is rule.others
                and not listed.selects
                for listed in dumped_rules(question, rule.version)
            )

    def rules_before(self, rule: MarkRule) -> list[int]:
        """Return the preferences of other programs' rules that precede ours and lead to a table.

        Rules to the table ``local`` do not count, because it only has this host's own addresses.
        """
        with _translated("listing routing rules"), route_question() as question:
            return [
                listed.preference
                for listed in dumped_rules(question, rule.version)
                if listed.action == _TO_TABLE
                and listed.preference < rule.preference
                and listed.table != _LOCAL_TABLE
                and listed.protocol != ROUTE_PROTOCOL
            ]


def device_names() -> frozenset[str]:
    """Return the names of all devices.

    Raises:
        BackendError: too many files are open.
    """
    with _translated("listing devices"):
        return frozenset(name for _, name in socket.if_nameindex())


def insist_on_ipv6(device: str) -> None:
    """Check that a device has IPv6; otherwise Linux would report a missing permission (EACCES).

    Raises:
        BackendError: IPv6 is disabled on the device; the message names the command.
    """
    if read_setting(f"net/ipv6/conf/{device}/disable_ipv6") == "1":
        settings = (f"net.ipv6.conf.{name}.disable_ipv6=0" for name in ("all", "default", device))
        raise BackendError(
            f"using IPv6 on {device} failed (IPv6 is switched off on this host): "
            f"switch it on with: sysctl -w {' '.join(settings)}."
        )


def add_address(device: str, packed: bytes) -> None:
    """Add one inner address (packed) to a device; see :meth:`Rtnetlink.add_address`."""
    with Rtnetlink() as netlink:
        netlink.add_address(device, ipaddress.ip_address(packed), hidden=True)


def remove_address(device: str, packed: bytes) -> None:
    """Remove one address (packed) from a device; see :meth:`Rtnetlink.remove_address`."""
    with Rtnetlink() as netlink:
        netlink.remove_address(device, ipaddress.ip_address(packed))


@contextlib.contextmanager
def _translated(
    operation: str, *, absent_is_fine: bool = False, present_is_fine: bool = False
) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        if absent_is_fine and error.code in _ABSENT:
            return
        if present_is_fine and error.code == errno.EEXIST:
            return
        raise refused(operation, OSError(error.code, str(error))) from error
    except OSError as error:
        if absent_is_fine and error.errno in _ABSENT:
            return
        raise refused(operation, error) from error


def _family(version: int) -> int:
    return socket.AF_INET if version == 4 else socket.AF_INET6


def _address_arguments(device: str, address: IpAddress) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "index": socket.if_nametoindex(device),
        "address": str(address),
        "prefixlen": address.max_prefixlen,
        "family": _family(address.version),
    }
    if address.version == 6:
        arguments["flags"] = _IFA_F_NODAD
    return arguments


def _route_arguments(route: Route) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "family": _family(route.destination.version),
        "dst": str(route.destination),
        "type": route.kind.name.lower(),
        "table": route.table,
        "priority": route.metric,
        "proto": ROUTE_PROTOCOL,
    }
    if route.device is not None:
        arguments["oif"] = socket.if_nametoindex(route.device)
    if route.source is not None:
        arguments["prefsrc"] = str(route.source)
    if route.mtu:
        headers = 40 if route.destination.version == 4 else 60  # IP and TCP without options
        segment = min(route.mtu, SEGMENT_MTU) - headers
        arguments["metrics"] = {"mtu": route.mtu, "advmss": segment}
    return arguments


def _program(descriptor: int | None) -> dict[str, Any]:
    if descriptor is None:
        return {}
    return {"encap": {"type": "bpf", "xmit": {"fd": descriptor, "name": "overlay"}}}


def _rule_arguments(rule: MarkRule) -> dict[str, Any]:
    return {
        "family": _family(rule.version),
        "priority": rule.preference,
        "table": rule.table,
        "fwmark": rule.mark,
        "fwmask": rule.mask,
        "flags": _FIB_RULE_INVERT if rule.others else 0,
        "protocol": ROUTE_PROTOCOL,
    }


def _as_route(listed: ListedRoute, table: int) -> Route | None:
    """Return a listed route as :class:`Route`, or None for kinds that we never install."""
    if listed.kind not in {kind.value for kind in RouteKind}:
        return None
    kind = RouteKind(listed.kind)
    return Route(
        destination=listed.destination,
        kind=kind,
        table=table,
        metric=listed.metric,
        device=_device_name(listed.device) if kind is RouteKind.UNICAST else None,
        source=listed.source,
        mtu=listed.mtu,
        rerouted=listed.encapsulated,
    )


def _device_name(index: int) -> str | None:
    try:
        return socket.if_indextoname(index) if index else None
    except OSError:  # the device was deleted after the dump
        return None
