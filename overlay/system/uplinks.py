"""Find the devices over which packets of circuits leave this host, by route lookups in the kernel.

The default route of the main table is not sufficient, because a VPN client does not change it. The
client adds routes to 0.0.0.0/1 and 128.0.0.0/1, or a separate table with a rule for packets without
its mark. So the kernel looks up the route of a packet like that of a circuit. It has the exit's
input device and mark, a source address of the pool, and a public destination. Nothing is sent.

Format: rtnetlink(7), RTM_GETROUTE with RTM_F_FIB_MATCH (Linux uapi ``linux/rtnetlink.h``).
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from overlay.addresses import IpAddress
from overlay.system.failures import refused
from overlay.system.marks import NODE_MARK
from overlay.system.netlink_messages import RECEIVE_BYTES, attribute, attributes, message, messages

__all__ = ["SAMPLES", "Uplink", "Uplinks", "find_uplinks"]

SAMPLES: Final[dict[int, tuple[IpAddress, ...]]] = {
    4: tuple(
        ipaddress.ip_address(f"{first}.175.48.1") for first in (20, 52, 80, 110, 140, 172, 192, 210)
    ),
    6: tuple(
        ipaddress.ip_address(each)
        for each in ("2620:4f:8000::1", "2001:4860::1", "2400::1", "2804::1", "2a00::1", "2c0f::1")
    ),
}
"""Public addresses across the address space, so that all parts of a divided default route count."""

_LONGEST: Final = {4: 7, 6: 6}
"""Longest prefix, in bits, of a default route or of a part of a divided one."""

_MAIN_TABLE: Final = 254
_UNICAST: Final = 1
_RTM_GETROUTE, _RTM_GETLINK, _ERROR = 26, 18, 2
_FIB_MATCH: Final = 0x2000 | 0x1000
"""RTM_F_FIB_MATCH and RTM_F_LOOKUP_TABLE; without the latter, IPv4 always names the main table."""
_RTMSG: Final = struct.Struct("=BBBBBBBBI")  # family, lengths, tos, table, protocol, scope, type
_RTNEXTHOP: Final = struct.Struct("=HBBi")  # length, flags, hops, index
_RTA_DST, _RTA_SRC, _RTA_IIF, _RTA_OIF, _RTA_GATEWAY = 1, 2, 3, 4, 5
_RTA_MULTIPATH, _RTA_TABLE, _RTA_MARK = 9, 15, 16
_IFLA_LINKINFO, _IFLA_INFO_KIND = 18, 1
_TUNNELS: Final = frozenset(
    (b"tun", b"wireguard", b"ovpn", b"xfrm", b"vti", b"vti6", b"ipip", b"sit", b"ip6tnl", b"gre")
)


@dataclass(frozen=True, slots=True)
class Uplink:
    """One route towards the outside.

    ``overriding`` is False for a plain default route of the main table over a device that is not a
    tunnel. It is True for a VPN, a divided default route, or a table that a rule leads to.
    """

    device: str
    gateway: IpAddress | None
    overriding: bool


@dataclass(frozen=True, slots=True)
class Uplinks:
    """All routes towards the outside of one IP version; ``error`` is an errno if there is none."""

    ways: tuple[Uplink, ...]
    error: int = 0

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices, each once."""
        return tuple(dict.fromkeys(way.device for way in self.ways))


def find_uplinks(
    version: int, *, device: str = "", source: IpAddress | None = None, mark: int = NODE_MARK
) -> Uplinks:
    """Return the routes of packets of circuits; this takes about 1 ms.

    Args:
        version: 4 or 6.
        device: the exit's device; without it, the routes of this host's own packets.
        source: an address of the pool, if there is a device.
        mark: firewall mark of the exit's packets.

    Raises:
        BackendError: the routes could not be read.
    """
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
            netlink.bind((0, 0))
            return _asked(netlink, version, device, source, mark)
    except OSError as error:
        raise refused("looking up routes", error) from error


def _asked(
    netlink: socket.socket, version: int, device: str, source: IpAddress | None, mark: int
) -> Uplinks:
    found: dict[Uplink, None] = {}
    failed = 0
    for target in SAMPLES[version]:
        body = _request(target, device, source, mark)
        try:
            found.update(dict.fromkeys(_ways(netlink, _ask(netlink, _RTM_GETROUTE, body))))
        except OSError as error:
            failed = failed or error.errno or errno.EIO
    ways = tuple(found)
    return Uplinks(ways, 0 if ways else failed or errno.ENETUNREACH)


def _request(target: IpAddress, device: str, source: IpAddress | None, mark: int) -> bytes:
    bits, family = target.max_prefixlen, _family(target.version)
    from_bits = bits if device and source is not None else 0
    body = _RTMSG.pack(family, bits, from_bits, 0, 0, 0, 0, 0, _FIB_MATCH)
    body += attribute(_RTA_DST, target.packed) + attribute(_RTA_MARK, struct.pack("=I", mark))
    if device and source is not None:
        body += attribute(_RTA_SRC, source.packed)
        body += attribute(_RTA_IIF, struct.pack("=I", socket.if_nametoindex(device)))
    return body


def _ask(netlink: socket.socket, kind: int, body: bytes) -> bytes:
    """Return the body of the answer.

    Raises:
        OSError: the kernel's refusal.
    """
    netlink.send(message(kind, 0, body))
    for answer, content in messages(netlink.recv(RECEIVE_BYTES)):
        if answer == _ERROR:
            number = -int(struct.unpack_from("=i", content)[0])
            raise OSError(number, "the kernel found no route")
        return content
    return b""


def _ways(netlink: socket.socket, body: bytes) -> Iterator[Uplink]:
    if len(body) < _RTMSG.size:
        return
    family, length, _, _, table, _, _, kind, _ = _RTMSG.unpack_from(body)
    version = 6 if family == socket.AF_INET6 else 4
    if kind != _UNICAST or length > _LONGEST[version]:
        return
    found = attributes(body[_RTMSG.size :])
    table = _number(found.get(_RTA_TABLE, b"")) or table
    for index, gateway in _next_hops(found):
        with contextlib.suppress(OSError):  # the device was deleted meanwhile
            device = socket.if_indextoname(index)
            overriding = length > 0 or table != _MAIN_TABLE or _is_tunnel(netlink, index)
            if device != "lo":
                yield Uplink(device, _address(gateway), overriding)


def _next_hops(found: dict[int, bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield index and gateway of each next hop of a route."""
    hops = found.get(_RTA_MULTIPATH, b"")
    if not hops:
        yield _number(found.get(_RTA_OIF, b"")), found.get(_RTA_GATEWAY, b"")
    while len(hops) >= _RTNEXTHOP.size:
        length, _, _, index = _RTNEXTHOP.unpack_from(hops)
        if length < _RTNEXTHOP.size:
            return
        yield index, attributes(hops[_RTNEXTHOP.size : length]).get(_RTA_GATEWAY, b"")
        hops = hops[(length + 3) & ~3 :]


def _is_tunnel(netlink: socket.socket, index: int) -> bool:
    request = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, 0, 0)
    link = attributes(_ask(netlink, _RTM_GETLINK, request)[16:])
    kind = attributes(link.get(_IFLA_LINKINFO, b"")).get(_IFLA_INFO_KIND, b"")
    return kind.rstrip(b"\0") in _TUNNELS


def _number(packed: bytes) -> int:
    return int.from_bytes(packed[:4], sys.byteorder)


def _address(packed: bytes) -> IpAddress | None:
    return ipaddress.ip_address(packed) if len(packed) in (4, 16) else None


def _family(version: int) -> int:
    return socket.AF_INET if version == 4 else socket.AF_INET6
