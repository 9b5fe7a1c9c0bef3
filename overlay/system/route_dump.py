"""Read routes and rules of the kernel, with as little decoding as possible.

The main table may have ten thousand or a million routes of a routing daemon. So only one table is
requested, which the kernel filters (``NETLINK_GET_STRICT_CHK``, Linux 4.20). Most of the listed
routes differ only in their destination, so the bytes after it are decoded once::

    nlmsghdr (16) rtmsg (12) | RTA_TABLE (8) | RTA_DST (8, IPv4) | all the rest
                                                                   └── key of decoded routes

Formats: Linux uapi ``rtnetlink.h`` and ``fib_rules.h``, in the host's byte order.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from overlay.addresses import IpAddress, IpNetwork
from overlay.system.netlink_messages import (
    DUMP,
    RECEIVE_BYTES,
    answers,
    attribute,
    attribute_list,
    attributes,
    message,
)

__all__ = [
    "ListedRoute",
    "ListedRule",
    "default_hops",
    "dumped_routes",
    "dumped_rules",
    "networks_on_link",
    "route_question",
]

_SOL_NETLINK: Final = 270
_GET_STRICT_CHECK: Final = 12
_GET_ROUTE, _GET_RULE = 26, 34
_DONE, _ERROR = 3, 2
_UNICAST: Final = 1

_RTMSG: Final = struct.Struct("=BBBBBBBBI")  # family, lengths, tos, table, protocol, scope, ...
_LENGTHS: Final = struct.Struct("=I13xB")  # of the message, and of the destination's prefix
_RULE_HEADER: Final = struct.Struct("=BBBBBxxBI")  # family, lengths, tos, table, action, flags
_NEXT_HOP: Final = struct.Struct("=HBBi")  # length, flags, weight, device

_DST, _OIF, _GATEWAY, _PRIORITY, _PREFERRED, _METRICS, _MULTIPATH = 1, 4, 5, 6, 7, 8, 9
_TABLE, _VIA, _ENCAP_TYPE = 15, 18, 21
_METRIC_MTU: Final = 2
_RULE_PRIORITY, _RULE_MARK, _RULE_TABLE, _RULE_MASK, _RULE_PROTOCOL = 6, 10, 15, 16, 21

_RULE_SUPPRESSED, _NOTHING = 14, 0xFFFFFFFF
_SELECTORS: Final = frozenset((1, 2, 3, 12, 13, 17, 19, 20, 22, 23, 24))
"""Addresses, devices, tunnel, group of devices, VRF, user, protocol, ports."""

_PLAIN: Final = struct.Struct("=HHIHH")  # RTA_TABLE with its value, and the head of RTA_DST
_KIND_AT, _TABLE_AT, _REST_AT = 23, 28, 44
"""Offsets in an IPv4 message with the layout above."""


class ListedRoute(NamedTuple):
    """A listed route; ``encapsulated`` is set if a program or a tunnel takes its packets."""

    destination: IpNetwork
    kind: int
    protocol: int
    metric: int
    device: int
    source: IpAddress | None
    mtu: int
    encapsulated: bool


class ListedRule(NamedTuple):
    """A listed rule; a missing attribute is 0, ``flags`` are the kernel's."""

    action: int
    preference: int
    mark: int
    mask: int
    table: int
    protocol: int
    flags: int
    selects: bool
    """Whether it has other conditions than the mark, for example an address or a device."""


class Hop(NamedTuple):
    """A next hop: a device, and a router unless the destination is on the device's link."""

    device: int
    router: bytes | None
    """Packed; b"" for a router of the other IP version."""


@contextlib.contextmanager
def route_question() -> Iterator[socket.socket]:
    """Open a socket for the functions below.

    Raises:
        OSError: too many files are open, or the kernel has no rtnetlink.
    """
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE) as netlink:
        netlink.bind((0, 0))
        with contextlib.suppress(OSError):  # a kernel before 4.20 sends all tables
            netlink.setsockopt(_SOL_NETLINK, _GET_STRICT_CHECK, 1)
        yield netlink


def dumped_routes(
    netlink: socket.socket, version: int, table: int, protocol: int = 0
) -> Iterator[ListedRoute]:
    """Yield the routes of one table, installed by one protocol unless it is 0.

    Raises:
        OSError: the kernel refused.
    """
    try:
        netlink.send(_request(version, table, protocol))
        for body in answers(netlink):
            route = _route(body, version, table)
            if route is not None and protocol in (0, route.protocol):
                yield route
    except FileNotFoundError:  # the table does not exist yet
        return


def dumped_rules(netlink: socket.socket, version: int) -> Iterator[ListedRule]:
    """Yield the routing rules of an IP version.

    Raises:
        OSError: the kernel refused.
    """
    family = _family(version)
    netlink.send(message(_GET_RULE, DUMP, _RULE_HEADER.pack(family, 0, 0, 0, 0, 0, 0)))
    for body in answers(netlink):
        yield _rule(body)


def networks_on_link(netlink: socket.socket, table: int) -> tuple[dict[int, set[IpNetwork]], int]:
    """Return the IPv4 networks and routers on each device's link, and the number of routes.

    Raises:
        OSError: the kernel refused.
    """
    found: dict[int, set[IpNetwork]] = {}
    known: set[bytes] = set()
    count = 0
    plain = _PLAIN.pack(8, _TABLE, table, 8, _DST)
    for data in _datagrams(netlink, _request(4, table, 0)):
        at = 0
        while at + _TABLE_AT <= len(data):
            length, bits = _LENGTHS.unpack_from(data, at)
            if length < _TABLE_AT:
                break
            count += 1
            is_plain = data[at + _TABLE_AT : at + _TABLE_AT + _PLAIN.size] == plain
            rest = data[at + _REST_AT : at + length]
            if not is_plain or rest not in known:
                body = data[at + 16 : at + length]
                hops = _hops(body, table)
                for hop in hops:
                    network = _network_of(hop, body, bits)
                    if network is not None:
                        found.setdefault(hop.device, set()).add(network)
                if is_plain and all(hop.router is not None for hop in hops):
                    known.add(rest)
            at += (length + 3) & ~3
    return found, count


def default_hops(netlink: socket.socket, version: int, table: int) -> list[Hop]:
    """Return the next hops of a table's default routes; blocking routes are left out.

    Raises:
        OSError: the kernel refused.
    """
    found: list[Hop] = []
    for data in _datagrams(netlink, _request(version, table, 0)):
        at = 0
        while at + _TABLE_AT <= len(data):
            length, bits = _LENGTHS.unpack_from(data, at)
            if length < _TABLE_AT:
                break
            if bits == 0 and data[at + _KIND_AT] == _UNICAST:
                found += _hops(data[at + 16 : at + length], table)
            at += (length + 3) & ~3
    return found


def _request(version: int, table: int, protocol: int) -> bytes:
    body = _RTMSG.pack(_family(version), 0, 0, 0, 0, protocol, 0, 0, 0)
    return message(_GET_ROUTE, DUMP, body + attribute(_TABLE, struct.pack("=I", table)))


def _datagrams(netlink: socket.socket, request: bytes) -> Iterator[bytes]:
    """Yield each datagram of the kernel's answer, with several messages, up to the end."""
    netlink.send(request)
    while True:
        data = netlink.recv(RECEIVE_BYTES)
        _, kind = struct.unpack_from("=IH", data)
        if kind == _ERROR:
            number = -struct.unpack_from("=i", data, 16)[0]
            raise OSError(number, "the kernel refused a netlink dump")
        if kind == _DONE:
            return
        yield data
        if _ends(data):
            return


def _ends(data: bytes) -> bool:
    """Tell whether the last message of a datagram is the end of the dump."""
    # NLMSG_DONE has 20 bytes: a header, which begins with length and type, and a status.
    return len(data) >= 20 and struct.unpack_from("=IH", data, len(data) - 20) == (20, _DONE)


def _hops(body: bytes, table: int) -> list[Hop]:
    """Return the next hops of a route; none if it is in another table (Linux before 4.20)."""
    found = attributes(body[_RTMSG.size :])
    if _number(found.get(_TABLE), _RTMSG.unpack_from(body)[4]) != table:
        return []
    if _MULTIPATH in found:
        return list(_several(found[_MULTIPATH]))
    index = _number(found.get(_OIF))
    return [Hop(index, _router(found))] if index else []


def _several(hops: bytes) -> Iterator[Hop]:
    while len(hops) >= _NEXT_HOP.size:
        length, _, _, index = _NEXT_HOP.unpack_from(hops)
        if length < _NEXT_HOP.size:
            return
        yield Hop(index, _router(dict(attribute_list(hops[_NEXT_HOP.size : length]))))
        hops = hops[(length + 3) & ~3 :]


def _router(found: dict[int, bytes]) -> bytes | None:
    return found.get(_GATEWAY, b"" if _VIA in found else None)


def _network_of(hop: Hop, body: bytes, bits: int) -> IpNetwork | None:
    """Return the network or router that a route over IPv4 shows to be on its device's link."""
    if hop.router:
        return ipaddress.ip_network(hop.router) if len(hop.router) == 4 else None
    if hop.router is not None:  # an IPv6 router, which is resolved without ARP
        return None
    packed = attributes(body[_RTMSG.size :]).get(_DST, bytes(4))
    return ipaddress.ip_network((packed, bits)) if len(packed) == 4 and bits <= 32 else None


def _route(body: bytes, version: int, table: int) -> ListedRoute | None:
    if len(body) < _RTMSG.size:
        return None
    _, bits, _, _, short, protocol, _, kind, _ = _RTMSG.unpack_from(body)
    found = attributes(body[_RTMSG.size :])
    size = 4 if version == 4 else 16
    packed = found.get(_DST, bytes(size))
    if _number(found.get(_TABLE), short) != table or len(packed) != size or bits > size * 8:
        return None
    source = found.get(_PREFERRED, b"")
    metrics = attributes(found.get(_METRICS, b""))
    return ListedRoute(
        ipaddress.ip_network((packed, bits)),
        kind,
        protocol,
        _number(found.get(_PRIORITY)),
        _number(found.get(_OIF)),
        ipaddress.ip_address(source) if len(source) == size else None,
        _number(metrics.get(_METRIC_MTU)),
        _ENCAP_TYPE in found,
    )


def _rule(body: bytes) -> ListedRule:
    _, _, _, _, short, action, flags = _RULE_HEADER.unpack_from(body)
    found = attributes(body[_RULE_HEADER.size :])
    return ListedRule(
        action,
        _number(found.get(_RULE_PRIORITY)),
        _number(found.get(_RULE_MARK)),
        _number(found.get(_RULE_MASK)),
        _number(found.get(_RULE_TABLE), short),
        found.get(_RULE_PROTOCOL, b"\0")[0],
        flags,
        bool(body[1] or body[2] or body[3] or _SELECTORS & found.keys())
        or _number(found.get(_RULE_SUPPRESSED), _NOTHING) != _NOTHING,
    )


def _family(version: int) -> int:
    return int(socket.AF_INET if version == 4 else socket.AF_INET6)


def _number(value: bytes | None, default: int = 0) -> int:
    return int(struct.unpack("=I", value)[0]) if value is not None and len(value) == 4 else default
