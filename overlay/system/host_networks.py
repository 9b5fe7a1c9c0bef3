"""List the addresses in use: those of this host, its networks, routers and neighbours.

A source checks them before it takes an address that an exit lends, and an exit before it lends from
a pool. Routes of all tables count, because a VPN may use a separate table. The networks in routing
rules count as well.

Formats: rtnetlink(7); Linux uapi ``linux/rtnetlink.h``, ``linux/neighbour.h``.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple, TypeVar

from overlay.addresses import IpAddress, IpNetwork
from overlay.system.failures import refused
from overlay.system.netlink_messages import DUMP, answers, attributes, message
from overlay.system.rtnetlink import ROUTE_PROTOCOL

__all__ = [
    "NEIGHBOUR",
    "ROUTER",
    "RULE_SOURCE",
    "SpecificRoute",
    "UsedNetwork",
    "parse_neighbour",
    "parse_route",
    "parse_rule",
    "parse_specific",
    "specific_routes",
    "used_networks",
    "uses",
]

NEIGHBOUR: Final = "a neighbour"
"""``what`` of :class:`UsedNetwork` for an address that another host on a link has claimed."""

ROUTER: Final = "a router"
"""``what`` for the next hop of a route."""

RULE_SOURCE: Final = "the source of a routing rule"
"""``what`` for the source of a rule; an exit's operator may have a rule for the pool."""

_RTM_GETADDR, _RTM_GETROUTE, _RTM_GETNEIGH, _RTM_GETRULE = 22, 26, 30, 34
_IFADDRMSG: Final = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_RTMSG: Final = struct.Struct("=BBBBBBBBI")  # family, lengths, tos, table, protocol, scope, type
_RULE: Final = struct.Struct("=BBBxxxxxI")  # family, lengths of destination and source, flags
_NDMSG: Final = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type
_RTNEXTHOP: Final = struct.Struct("=HBBi")  # length, flags, hops, index
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_MULTIPATH = 1, 4, 5, 9
_RTA_VIA: Final = 18
_NDA_DST: Final = 1
_FRA_DST, _FRA_SRC, _FRA_PROTOCOL = 1, 2, 21
_UNICAST: Final = 1
_LOCAL_TABLE: Final = 255
_PROTOCOL_KERNEL: Final = 2
_CLONED: Final = 0x200
"""RTM_F_CLONED: a cached route for one destination."""

_LEADS_SOMEWHERE: Final = frozenset((1, 2, 3, 4))
"""Route types unicast, local, broadcast, anycast; other types refuse packets."""

_ANSWERS: Final = 0x02 | 0x04 | 0x08 | 0x10 | 0x80
"""States of a neighbour that exists or existed: reachable, stale, delay, probe, permanent."""

_SHORTEST: Final = {4: 8, 6: 7}
"""Minimum prefix length; shorter ones are default routes, or parts of one that a VPN divided."""


class SpecificRoute(NamedTuple):
    """A route to a part of the address space, by another program than this one.

    ``router`` is the packed address of the next hop, or None if the network is on the link.
    ``of_address`` is set if the network is the prefix of an address of the device.
    """

    network: IpNetwork
    device: int
    router: bytes | None
    of_address: bool


class UsedNetwork(NamedTuple):
    """A network (often one address) that is in use, with its device and the kind of use."""

    network: IpNetwork
    device: int
    what: str


_Found = TypeVar("_Found")


def used_networks() -> list[UsedNetwork]:
    """Return all networks that this network namespace uses; this takes a few milliseconds.

    Raises:
        BackendError: the kernel's state could not be read.
    """
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
            netlink.bind((0, 0))
            return [
                *_dump(netlink, _RTM_GETADDR, _IFADDRMSG.size, _parse_address),
                *_dump(netlink, _RTM_GETROUTE, _RTMSG.size, parse_route),
                *_dump(netlink, _RTM_GETNEIGH, _NDMSG.size, parse_neighbour),
                *_dump(netlink, _RTM_GETRULE, _RULE.size, parse_rule),
            ]
    except OSError as error:
        raise refused("listing this host's networks", error) from error


def specific_routes() -> list[SpecificRoute]:
    """Return the routes of all tables, except default routes and parts of divided ones.

    Raises:
        BackendError: the routes could not be read.
    """
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
            netlink.bind((0, 0))
            return list(_dump(netlink, _RTM_GETROUTE, _RTMSG.size, parse_specific))
    except OSError as error:
        raise refused("listing this host's routes", error) from error


def uses(address: IpAddress, used: Iterable[UsedNetwork]) -> UsedNetwork | None:
    """Return the network in use that contains an address, or None."""
    return next(
        (u for u in used if u.network.version == address.version and address in u.network), None
    )


def _dump(
    netlink: socket.socket, kind: int, header: int, parse: Callable[[bytes], Iterator[_Found]]
) -> Iterator[_Found]:
    netlink.send(message(kind, DUMP, bytes(header)))
    for body in answers(netlink):
        if len(body) >= header:
            yield from parse(body)


def _parse_address(body: bytes) -> Iterator[UsedNetwork]:
    index = _IFADDRMSG.unpack_from(body)[4]
    found = attributes(body[_IFADDRMSG.size :])
    yield from _host(found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS), index, "an address")


def parse_route(body: bytes) -> Iterator[UsedNetwork]:
    """Yield the network of a route (``rtmsg`` and its attributes) and its routers.

    Routes of this program and default routes give no network.
    """
    family, length, _, _, _, protocol, _, kind, flags = _RTMSG.unpack_from(body)
    if kind not in _LEADS_SOMEWHERE or flags & _CLONED or protocol == ROUTE_PROTOCOL:
        return
    found = attributes(body[_RTMSG.size :])
    index = int.from_bytes(found.get(_RTA_OIF, b"")[:4], sys.byteorder)
    version = {socket.AF_INET: 4, socket.AF_INET6: 6}.get(family)
    destination = found.get(_RTA_DST, b"")
    if version is not None and length >= _SHORTEST[version] and len(destination) in (4, 16):
        with contextlib.suppress(ValueError):
            yield UsedNetwork(ipaddress.ip_network((destination, length)), index, "a route")
    for gateway in (found.get(_RTA_GATEWAY), *_gateways(found.get(_RTA_MULTIPATH, b""))):
        yield from _host(gateway, index, ROUTER)


def parse_specific(body: bytes) -> Iterator[SpecificRoute]:
    """Yield the next hops of a route (``rtmsg`` with attributes) that is not a default route."""
    family, length, _, _, table, protocol, _, kind, flags = _RTMSG.unpack_from(body)
    found = attributes(body[_RTMSG.size :])
    version = {socket.AF_INET: 4, socket.AF_INET6: 6}.get(family)
    destination = found.get(_RTA_DST, b"")
    if version is None or kind != _UNICAST or table == _LOCAL_TABLE or flags & _CLONED:
        return
    if protocol == ROUTE_PROTOCOL or length < _SHORTEST[version] or len(destination) not in (4, 16):
        return
    with contextlib.suppress(ValueError):
        network = ipaddress.ip_network((destination, length))
        for index, router in _next_hops(found):
            yield SpecificRoute(network, index, router, protocol == _PROTOCOL_KERNEL)


def _next_hops(found: dict[int, bytes]) -> Iterator[tuple[int, bytes | None]]:
    """Yield the device and the router of each next hop of a route."""
    hops = found.get(_RTA_MULTIPATH, b"")
    if not hops:
        index = int.from_bytes(found.get(_RTA_OIF, b"")[:4], sys.byteorder)
        yield index, found.get(_RTA_GATEWAY) or found.get(_RTA_VIA)
    while len(hops) >= _RTNEXTHOP.size:
        length, _, _, index = _RTNEXTHOP.unpack_from(hops)
        if length < _RTNEXTHOP.size:
            return
        hop = attributes(hops[_RTNEXTHOP.size : length])
        yield index, hop.get(_RTA_GATEWAY) or hop.get(_RTA_VIA)
        hops = hops[(length + 3) & ~3 :]


def _gateways(hops: bytes) -> Iterator[bytes | None]:
    while len(hops) >= _RTNEXTHOP.size:
        length = _RTNEXTHOP.unpack_from(hops)[0]
        if length < _RTNEXTHOP.size:
            return
        yield attributes(hops[_RTNEXTHOP.size : length]).get(_RTA_GATEWAY)
        hops = hops[(length + 3) & ~3 :]


def parse_neighbour(body: bytes) -> Iterator[UsedNetwork]:
    """Yield the address of a neighbour (``ndmsg`` and its attributes) that exists or existed."""
    _, index, state, _, _ = _NDMSG.unpack_from(body)
    if state & _ANSWERS:
        yield from _host(attributes(body[_NDMSG.size :]).get(_NDA_DST), index, NEIGHBOUR)


def parse_rule(body: bytes) -> Iterator[UsedNetwork]:
    """Yield the networks that a routing rule (``fib_rule_hdr``) of another program names.

    Such a network counts as used, wherever its routes lead.
    """
    family, to_length, from_length, _ = _RULE.unpack_from(body)
    found = attributes(body[_RULE.size :])
    version = {socket.AF_INET: 4, socket.AF_INET6: 6}.get(family)
    if version is None or found.get(_FRA_PROTOCOL) == bytes([ROUTE_PROTOCOL]):
        return
    named = ((_FRA_DST, to_length, "a routing rule"), (_FRA_SRC, from_length, RULE_SOURCE))
    for number, length, what in named:
        packed = found.get(number, b"")
        if length >= _SHORTEST[version] and len(packed) in (4, 16):
            with contextlib.suppress(ValueError):
                network = ipaddress.ip_network((packed, length), strict=False)
                yield UsedNetwork(network, 0, what)


def _host(packed: bytes | None, index: int, what: str) -> Iterator[UsedNetwork]:
    if packed is not None and len(packed) in (4, 16):
        yield UsedNetwork(ipaddress.ip_network(packed), index, what)
