"""Build ICMP errors for programs at the source: too big, protocol unreachable, prohibited.

The source writes the first two to its own TUN device, so they never leave its host. An exit sends
the third back through the circuit. The source address of each error is the destination of the
packet, which the program already knows. So the reverse path filter of the source's host accepts
the error on that device, and no other address is revealed.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import Final

from overlay.forwarding.checksum import has_valid_sum, internet_checksum
from overlay.forwarding.headers import ICMP, ICMPV6, TCP, UDP, DropReason, IpHeaders, parse_headers
from overlay.forwarding.normalise import HOP_LIMIT

__all__ = [
    "IPV6_MINIMUM_MTU",
    "error_ipv4",
    "error_ipv6",
    "has_answerable_ends",
    "is_icmp_error",
    "prohibited",
    "protocol_unreachable",
]

IPV6_MINIMUM_MTU: Final = 1280
"""Bytes that every IPv6 link carries, if necessary by fragmentation below it (RFC 8200, 5)."""

_IPV4_ANSWER_BYTES: Final = 576
"""Largest ICMP error over IPv4; the quotation is cut to fit (RFC 1812, section 4.3.2.3)."""

_CARRIED: Final = {4: frozenset((ICMP, TCP, UDP)), 6: frozenset((ICMPV6, TCP, UDP))}
_IPV6_EXTENSIONS: Final = frozenset((0, 43, 44, 60))
"""Another header follows these, so the first "next header" field does not name the protocol."""

_IPV6_NEXT_HEADER: Final = 6
"""Offset of the "next header" field in an IPv6 header (RFC 8200, section 3)."""

_IPV4_ERROR_TYPES: Final = frozenset((3, 4, 5, 11, 12))
_ICMPV6_INFORMATIONAL: Final = 128

_FRAGMENT_OFFSET: Final = 0x1FFF

_IPV4: Final = struct.Struct("!BBHHHBBH")
_IPV6: Final = struct.Struct("!IHBB")
_ICMP4: Final = struct.Struct("!BBHHH")
_ICMP6: Final = struct.Struct("!BBHI")


def protocol_unreachable(packet: bytes) -> bytes | None:
    """Return the error for a packet of a protocol that no circuit carries, None if there is none.

    IPv4: destination unreachable, protocol unreachable (RFC 792, type 3 code 2). IPv6: parameter
    problem, unrecognized next header (RFC 4443, section 3.4). There is no error for a damaged
    packet, a later fragment or a multicast address (RFC 1812, section 4.3.2.7; RFC 4443, 2.4 e).
    """
    version = packet[0] >> 4 if packet else 0
    if version == 4 and _is_whole_ipv4(packet):
        is_carried = packet[9] in _CARRIED[4]
        if is_carried or int.from_bytes(packet[6:8], "big") & _FRAGMENT_OFFSET:
            return None
        return error_ipv4(packet, code=2, rest=0) if has_answerable_ends(packet, 4) else None
    if (
        version == 6
        and len(packet) >= 40
        and int.from_bytes(packet[4:6], "big") + 40 == len(packet)
    ):
        if packet[_IPV6_NEXT_HEADER] in _CARRIED[6] | _IPV6_EXTENSIONS:
            return None
        if has_answerable_ends(packet, 6):
            return error_ipv6(packet, kind=4, code=1, rest=_IPV6_NEXT_HEADER)
    return None


def prohibited(packet: bytes) -> bytes | None:
    """Return the error for a packet that an exit does not forward, None if there is none.

    "Communication administratively prohibited": IPv4 type 3 code 13 (RFC 1812, section 5.2.7.1),
    IPv6 type 1 code 1 (RFC 4443, section 3.1). There is no error for an ICMP error, a later
    fragment, a multicast address, a packet with IP options, or one that cannot be parsed.
    """
    headers = parse_headers(packet)
    if isinstance(headers, DropReason) or headers.has_options or headers.fragment_offset:
        return None
    if is_icmp_error(packet, headers) or not has_answerable_ends(packet, headers.version):
        return None
    if headers.version == 4:
        return error_ipv4(packet, code=13, rest=0)
    return error_ipv6(packet, kind=1, code=1, rest=0)


def _is_whole_ipv4(packet: bytes) -> bool:
    header = (packet[0] & 0x0F) * 4
    return (
        20 <= header <= len(packet)
        and int.from_bytes(packet[2:4], "big") == len(packet)
        and has_valid_sum(packet[:header])
    )


def is_icmp_error(packet: bytes, headers: IpHeaders) -> bool:
    """Tell whether a parsed packet is an ICMP error; such a packet must not cause another one."""
    if headers.protocol == ICMP:
        return packet[headers.upper] in _IPV4_ERROR_TYPES
    return headers.protocol == ICMPV6 and packet[headers.upper] < _ICMPV6_INFORMATIONAL


def has_answerable_ends(packet: bytes, version: int) -> bool:
    """Tell whether both addresses of a packet belong to single hosts other than this one."""
    ends = (packet[12:16], packet[16:20]) if version == 4 else (packet[8:24], packet[24:40])
    return not any(
        address.is_multicast or address.is_unspecified or address.is_loopback
        for address in map(ipaddress.ip_address, ends)
    )


def error_ipv4(packet: bytes, *, code: int, rest: int) -> bytes:
    """Return "destination unreachable" with this code; ``rest`` is the next hop's MTU or 0."""
    quoted = packet[: _IPV4_ANSWER_BYTES - 28]
    body = _ICMP4.pack(3, code, 0, 0, rest) + quoted
    body = _ICMP4.pack(3, code, internet_checksum(body), 0, rest) + quoted
    fields = (0x45, 0, 20 + len(body), 0, 0x4000, HOP_LIMIT, ICMP)
    addresses = packet[16:20] + packet[12:16]
    checksum = internet_checksum(_IPV4.pack(*fields, 0) + addresses)
    return _IPV4.pack(*fields, checksum) + addresses + body


def error_ipv6(packet: bytes, *, kind: int, code: int, rest: int) -> bytes:
    """Return an ICMPv6 error with this type and code; ``rest`` is its MTU, its pointer or 0."""
    quoted = packet[: IPV6_MINIMUM_MTU - 48]
    addresses = packet[24:40] + packet[8:24]
    size = _ICMP6.size + len(quoted)
    pseudo_header = addresses + struct.pack("!II", size, ICMPV6)
    checksum = internet_checksum(pseudo_header + _ICMP6.pack(kind, code, 0, rest) + quoted)
    header = _IPV6.pack(6 << 28, size, ICMPV6, HOP_LIMIT) + addresses
    return header + _ICMP6.pack(kind, code, checksum, rest) + quoted
