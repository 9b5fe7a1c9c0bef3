"""Changes on this host as values: devices, addresses, routes, rules, filters, policies.

The kernel sends notifications to netlink sockets that joined its groups. :func:`parse_events`
turns one datagram into frozen values, without I/O. ``overlay.system.host_notices`` has the
sockets::

    with HostNotices() as notices:
        while True:
            for event in await notices.receive():
                match event:
                    case AddressChanged(address=address, gone=True): ...
                    case Overrun(): ...        # read the whole state again

Rules for a reader:

* An event only means that something may have changed. Read the current state from the kernel, and
  compare it with the wanted state.
* A reader also gets events of its own changes. It must change something only if the state differs
  from the wanted one. Otherwise it causes events without end.
* :class:`Overrun` means that the kernel dropped notifications. Read the whole state again.
* Legacy iptables sends no notifications. Its tables must be read at intervals.

Formats: Linux uapi ``linux/rtnetlink.h``, ``linux/if_link.h``, ``linux/fib_rules.h``,
``linux/netfilter/nf_tables.h``, ``linux/xfrm.h``; netlink(7), rtnetlink(7).
"""

from __future__ import annotations

import enum
import ipaddress
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from overlay.addresses import IpAddress
from overlay.system.netlink_messages import attributes, messages

__all__ = [
    "GROUPS",
    "AddressChanged",
    "EgressChanged",
    "FilterChanged",
    "HostEvent",
    "IpsecChanged",
    "LinkChanged",
    "NetlinkProtocol",
    "Overrun",
    "RouteChanged",
    "RuleChanged",
    "parse_events",
]


class NetlinkProtocol(enum.Enum):
    """The netlink family of a datagram (linux/netlink.h)."""

    ROUTE = 0
    XFRM = 6
    NETFILTER = 12


GROUPS: Final[dict[NetlinkProtocol, tuple[int, ...]]] = {
    # LINK, TC, IPv4 address, route and rule, IPv6 address, route and rule
    NetlinkProtocol.ROUTE: (1, 4, 5, 7, 8, 9, 11, 19),
    # SA, POLICY
    NetlinkProtocol.XFRM: (3, 4),
    # NFTABLES
    NetlinkProtocol.NETFILTER: (7,),
}
"""Groups to join, by family."""


@dataclass(frozen=True, slots=True)
class LinkChanged:
    """A device appeared, changed or vanished (``gone``).

    ``up`` is the administrative state (IFF_UP); ``running`` tells whether it has a carrier.
    ``mtu`` is in bytes, or 0 if it is unknown.
    """

    index: int
    name: str
    up: bool
    running: bool
    mtu: int = 0
    gone: bool = False


@dataclass(frozen=True, slots=True)
class AddressChanged:
    """A device got or lost (``gone``) an address."""

    index: int
    address: IpAddress
    prefix_length: int
    gone: bool = False


@dataclass(frozen=True, slots=True)
class RouteChanged:
    """A route appeared, changed or vanished.

    ``index`` is that of its device, or 0 if it has none or several. ``is_default`` is set if its
    destination has the prefix length 0.
    """

    version: int
    table: int
    index: int
    is_default: bool
    gone: bool = False


@dataclass(frozen=True, slots=True)
class RuleChanged:
    """A routing rule appeared or vanished; ``table`` is its table, or 0 if it has none."""

    version: int
    table: int
    preference: int
    gone: bool = False


@dataclass(frozen=True, slots=True)
class EgressChanged:
    """A queueing discipline or a traffic control filter of a device appeared or vanished."""

    index: int


@dataclass(frozen=True, slots=True)
class FilterChanged:
    """A transaction changed nftables; ``generation`` is the ruleset's number after it."""

    generation: int


@dataclass(frozen=True, slots=True)
class IpsecChanged:
    """An IPsec policy or security association was removed, or all of them (``flushed``).

    Installations are left out, because the IPsec backend makes dozens a second.
    """

    policies: bool
    flushed: bool


@dataclass(frozen=True, slots=True)
class Overrun:
    """The kernel dropped notifications, because they were not read in time."""


HostEvent = (
    LinkChanged
    | AddressChanged
    | RouteChanged
    | RuleChanged
    | EgressChanged
    | FilterChanged
    | IpsecChanged
    | Overrun
)

_IFF_UP: Final = 0x1
_IFF_RUNNING: Final = 0x40
_IFINFOMSG: Final = struct.Struct("=BxHiII")  # family, type, index, flags, changed flags
_IFADDRMSG: Final = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_RTMSG: Final = struct.Struct("=BBBBBBBBI")  # family, lengths, tos, table, protocol, ...
_FIB_RULE_HDR: Final = struct.Struct("=BBBBBxxBI")  # family, lengths, tos, table, action, flags
_TCMSG: Final = struct.Struct("=BxxxiIII")  # family, index, handle, parent, info
_FAMILY_VERSIONS: Final = {2: 4, 10: 6}
_CLONED: Final = 0x200
"""RTM_F_CLONED: a cached route for one destination."""

# Attributes.
_IFLA_IFNAME, _IFLA_MTU = 3, 4
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_OIF, _RTA_TABLE = 4, 15
_FRA_PRIORITY, _FRA_TABLE = 6, 15
_NFTA_GEN_ID: Final = 1
_NFGENMSG_BYTES: Final = 4

_NFT_MSG_NEWGEN: Final = 10 << 8 | 15
_XFRM_EVENTS: Final = {
    0x11: IpsecChanged(policies=False, flushed=False),  # DELSA
    0x14: IpsecChanged(policies=True, flushed=False),  # DELPOLICY
    0x1C: IpsecChanged(policies=False, flushed=True),  # FLUSHSA
    0x1D: IpsecChanged(policies=True, flushed=True),  # FLUSHPOLICY
}


def parse_events(family: NetlinkProtocol, data: bytes) -> list[HostEvent]:
    """Return the events of one datagram, each once, in order.

    A truncated message, or one of another kind, yields no event.
    """
    found: dict[HostEvent, None] = {}
    for kind, body in messages(data):
        event = _PARSERS[family](kind, body)
        if event is not None:
            found[event] = None
    return list(found)


def _route_family(kind: int, body: bytes) -> HostEvent | None:
    parser = _ROUTE_PARSERS.get(kind & ~3)
    try:
        # Each object has four types: new, delete, get and set, in this order.
        return parser(body, kind & 3 == 1) if parser is not None and kind & 3 < 2 else None
    except struct.error:
        return None


def _link(body: bytes, gone: bool) -> HostEvent | None:
    _, _, index, flags, _ = _IFINFOMSG.unpack_from(body)
    found = attributes(body[_IFINFOMSG.size :])
    name = found.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="replace")
    return LinkChanged(
        index,
        name,
        up=bool(flags & _IFF_UP),
        running=bool(flags & _IFF_RUNNING),
        mtu=_number(found.get(_IFLA_MTU)),
        gone=gone,
    )


def _address(body: bytes, gone: bool) -> HostEvent | None:
    _, length, _, _, index = _IFADDRMSG.unpack_from(body)
    found = attributes(body[_IFADDRMSG.size :])
    packed = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS) or b""
    if len(packed) not in (4, 16):
        return None
    return AddressChanged(index, ipaddress.ip_address(packed), length, gone)


def _route(body: bytes, gone: bool) -> HostEvent | None:
    family, length, _, _, table, _, _, _, flags = _RTMSG.unpack_from(body)
    version = _FAMILY_VERSIONS.get(family)
    if version is None or flags & _CLONED:
        return None
    found = attributes(body[_RTMSG.size :])
    table = _number(found.get(_RTA_TABLE)) or table
    return RouteChanged(version, table, _number(found.get(_RTA_OIF)), length == 0, gone)


def _rule(body: bytes, gone: bool) -> HostEvent | None:
    family, _, _, _, table, _, _ = _FIB_RULE_HDR.unpack_from(body)
    version = _FAMILY_VERSIONS.get(family)
    if version is None:
        return None
    found = attributes(body[_FIB_RULE_HDR.size :])
    table = _number(found.get(_FRA_TABLE)) or table
    return RuleChanged(version, table, _number(found.get(_FRA_PRIORITY)), gone)


def _traffic_control(body: bytes, _gone: bool) -> HostEvent | None:
    return EgressChanged(_TCMSG.unpack_from(body)[1])


def _netfilter_family(kind: int, body: bytes) -> HostEvent | None:
    if kind != _NFT_MSG_NEWGEN:
        return None
    generation = attributes(body[_NFGENMSG_BYTES:]).get(_NFTA_GEN_ID, b"")
    return FilterChanged(int.from_bytes(generation[:4], "big"))


def _xfrm_family(kind: int, _body: bytes) -> HostEvent | None:
    return _XFRM_EVENTS.get(kind)


def _number(value: bytes | None) -> int:
    return int.from_bytes(value, sys.byteorder) if value and len(value) == 4 else 0


_ROUTE_PARSERS: Final[dict[int, Callable[[bytes, bool], HostEvent | None]]] = {
    16: _link,
    20: _address,
    24: _route,
    32: _rule,
    36: _traffic_control,  # queueing disciplines
    44: _traffic_control,  # filters
}

_PARSERS: Final[dict[NetlinkProtocol, Callable[[int, bytes], HostEvent | None]]] = {
    NetlinkProtocol.ROUTE: _route_family,
    NetlinkProtocol.XFRM: _xfrm_family,
    NetlinkProtocol.NETFILTER: _netfilter_family,
}
