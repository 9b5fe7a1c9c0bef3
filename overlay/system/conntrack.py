"""Delete entries of the kernel's connection tracking.

Entries of an inner address are deleted when its circuit closes. An exit masquerades inner
addresses, so the table contains the destinations of a circuit, for minutes to days
(nf_conntrack_tcp_timeout_established is five days).

UDP entries of a host are deleted when the host becomes protected. Its next datagram then begins a
new connection, to which the translation of the kill switch applies
(:mod:`overlay.system.kill_switch_rules`).

The module uses netlink directly. It dumps the entries of an address, then deletes each entry by its
tuple.

Format: Linux uapi ``linux/netfilter/nfnetlink_conntrack.h``; each body begins with
``nfgenmsg``: family (1) version (1) resource (2).
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Final

from overlay.addresses import IpNetwork
from overlay.system.netlink_messages import (
    ACKNOWLEDGE,
    DUMP,
    acknowledged_error,
    answers,
    attribute,
    attributes,
    message,
    nested,
)

__all__ = ["forget_connections", "forget_datagrams_with"]

_NETLINK_NETFILTER: Final = 12
_CT_GET: Final = 1 << 8 | 1
_CT_DELETE: Final = 1 << 8 | 2

_CTA_TUPLE_ORIG: Final = 1
_CTA_ZONE: Final = 18
_CTA_FILTER: Final = 25
_CTA_FILTER_ORIG_FLAGS: Final = 1
_FILTER_BY_SOURCE: Final = 1
_CTA_TUPLE_IP: Final = 1
_CTA_IP_SOURCE: Final = {4: 1, 16: 3}
"""Packed size of an address -> CTA_IP_V4_SRC, CTA_IP_V6_SRC."""
_CTA_IP_DESTINATION: Final = {4: 2, 16: 4}
"""Likewise CTA_IP_V4_DST, CTA_IP_V6_DST."""

_CTA_TUPLE_PROTOCOL: Final = 2
_CTA_PROTOCOL_NUMBER: Final = 1
_UDP: Final = b"\x11"

_TIMEOUT_S: Final = 1.0
_NFGENMSG_BYTES: Final = 4


def forget_connections(inner_address: bytes) -> int | None:
    """Delete the tracked connections that ``inner_address`` (packed) began.

    Returns:
        The number of deleted entries, or None if the kernel refused or a right is missing. Then
        some entries expire by themselves, and the caller counts the failure.
    """
    own = ipaddress.ip_network(inner_address)
    return _forget(own, lambda _: True)


def forget_datagrams_with(prefix: IpNetwork) -> int | None:
    """Delete the tracked UDP connections with hosts of a prefix, whichever side began them.

    Returns:
        The number of deleted entries, or None if the kernel refused or a right is missing.
    """
    return _forget(prefix, lambda protocol: protocol == _UDP, both_ends=True)


def _forget(
    prefix: IpNetwork, is_meant: Callable[[bytes], bool], *, both_ends: bool = False
) -> int | None:
    address = prefix.network_address.packed
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as netlink:
            netlink.settimeout(_TIMEOUT_S)
            netlink.bind((0, 0))
            connections = list(_find(netlink, prefix, is_meant, both_ends=both_ends))
            return sum(_delete(netlink, address, found) for found in connections)
    except OSError:
        return None


def _find(
    netlink: socket.socket,
    prefix: IpNetwork,
    is_meant: Callable[[bytes], bool],
    *,
    both_ends: bool,
) -> Iterator[bytes]:
    """Yield the identifying attributes of each connection that a host of ``prefix`` began.

    With ``both_ends``, connections towards such a host are included.
    """
    address, is_one = prefix.network_address.packed, prefix.prefixlen == prefix.max_prefixlen
    kinds = [_CTA_IP_SOURCE[len(address)]]
    if both_ends:
        kinds.append(_CTA_IP_DESTINATION[len(address)])
    low, high = address, prefix.broadcast_address.packed
    by_kernel = is_one and not both_ends
    request = _head(address) + (_kernel_filter(address) if by_kernel else b"")
    netlink.send(message(_CT_GET, DUMP, request))
    for body in answers(netlink):
        if is_one and address not in body:
            continue  # a cheap test first, because most entries differ if the kernel cannot filter
        found = attributes(body[_NFGENMSG_BYTES:])
        original = found.get(_CTA_TUPLE_ORIG, b"")
        parts = attributes(original)
        addresses = attributes(parts.get(_CTA_TUPLE_IP, b""))
        ends = [addresses.get(kind, b"") for kind in kinds]
        protocol = attributes(parts.get(_CTA_TUPLE_PROTOCOL, b"")).get(_CTA_PROTOCOL_NUMBER, b"")
        if any(low <= end <= high for end in ends) and is_meant(protocol):
            zone = found.get(_CTA_ZONE)
            in_zone = attribute(_CTA_ZONE, zone) if zone is not None else b""
            yield nested(_CTA_TUPLE_ORIG, original) + in_zone


def _kernel_filter(address: bytes) -> bytes:
    """Return attributes that make the kernel (Linux 5.8 or later) dump only this source.

    This works for IPv4 only. Up to at least Linux 6.18, the comparison of IPv6 addresses is
    inverted (ctnetlink_filter_match_tuple), so the kernel would list all other connections.
    """
    if len(address) != 4:
        return b""
    source = nested(_CTA_TUPLE_IP, attribute(_CTA_IP_SOURCE[4], address))
    flags = attribute(_CTA_FILTER_ORIG_FLAGS, struct.pack("=I", _FILTER_BY_SOURCE))
    return nested(_CTA_TUPLE_ORIG, source) + nested(_CTA_FILTER, flags)


def _delete(netlink: socket.socket, address: bytes, connection: bytes) -> bool:
    """Delete one connection; return False if it ended since the dump.

    Raises:
        OSError: the kernel refused. A process without CAP_NET_ADMIN may list connections, but not
            delete them.
    """
    netlink.send(message(_CT_DELETE, ACKNOWLEDGE, _head(address) + connection))
    number = acknowledged_error(netlink)
    if number not in (0, errno.ENOENT):
        raise OSError(number, os.strerror(number))
    return number == 0


def _head(address: bytes) -> bytes:
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    return struct.pack("=BBH", family, 0, 0)
