"""ICMP "packet too big" for the local application, the one answer that the source gives.

It never travels: the node writes it to its own TUN device. As responder it names the
packet's destination, an address that the application already talks to, so that the host
accepts it on that device (reverse path filter) and no other address appears anywhere.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import Final

from overlay.forwarding.checksum import internet_checksum
from overlay.forwarding.headers import ICMP, ICMPV6, IpHeaders, Refusal, parse_headers
from overlay.forwarding.normalise import HOP_LIMIT

__all__ = ["IPV6_MINIMUM_MTU", "packet_too_big"]

IPV6_MINIMUM_MTU: Final = 1280
"""RFC 8200, section 5: every IPv6 link carries this much, by outer fragmentation if need be."""

_IPV4_ANSWER_BYTES: Final = 576
"""RFC 1812, section 4.3.2.3: quote as much as keeps the answer within 576 bytes."""

_DONT_FRAGMENT: Final = 0x40
_IPV4_ERROR_TYPES: Final = frozenset((3, 4, 5, 11, 12))
_ICMPV6_INFORMATIONAL: Final = 128

_IPV4: Final = struct.Struct("!BBHHHBBH")
_IPV6: Final = struct.Struct("!IHBB")
_ICMP4: Final = struct.Struct("!BBHHH")
_ICMP6: Final = struct.Struct("!BBHI")


def packet_too_big(packet: bytes, path_mtu: int) -> bytes | None:
    """Return the answer to a packet larger than ``path_mtu`` bytes, or None if there is none.

    IPv4: destination unreachable, fragmentation needed, with the next hop's MTU (RFC 792,
    type 3 code 4; RFC 1191, section 4), only if the packet must not be fragmented. IPv6:
    packet too big (RFC 4443, section 3.2), never announcing less than 1,280 bytes. Nothing
    answers an ICMP error, a later fragment, a group or a packet that cannot be parsed
    (RFC 1812, section 4.3.2.7; RFC 4443, section 2.4 e).
    """
    headers = parse_headers(packet)
    if isinstance(headers, Refusal) or headers.fragment_offset or _is_icmp_error(packet, headers):
        return None
    mtu = path_mtu if headers.version == 4 else max(path_mtu, IPV6_MINIMUM_MTU)
    if len(packet) <= mtu or not _may_be_answered(packet, headers.version):
        return None
    return _answer_ipv4(packet, mtu) if headers.version == 4 else _answer_ipv6(packet, mtu)


def _is_icmp_error(packet: bytes, headers: IpHeaders) -> bool:
    if headers.protocol == ICMP:
        return packet[headers.upper] in _IPV4_ERROR_TYPES
    return headers.protocol == ICMPV6 and packet[headers.upper] < _ICMPV6_INFORMATIONAL


def _may_be_answered(packet: bytes, version: int) -> bool:
    ends = (packet[12:16], packet[16:20]) if version == 4 else (packet[8:24], packet[24:40])
    if version == 4 and not packet[6] & _DONT_FRAGMENT:
        return False
    return not any(
        address.is_multicast or address.is_unspecified or address.is_loopback
        for address in map(ipaddress.ip_address, ends)
    )


def _answer_ipv4(packet: bytes, mtu: int) -> bytes:
    quoted = packet[: _IPV4_ANSWER_BYTES - 28]
    body = _ICMP4.pack(3, 4, 0, 0, mtu) + quoted
    body = _ICMP4.pack(3, 4, internet_checksum(body), 0, mtu) + quoted
    fields = (0x45, 0, 20 + len(body), 0, 0x4000, HOP_LIMIT, ICMP)
    addresses = packet[16:20] + packet[12:16]
    checksum = internet_checksum(_IPV4.pack(*fields, 0) + addresses)
    return _IPV4.pack(*fields, checksum) + addresses + body


def _answer_ipv6(packet: bytes, mtu: int) -> bytes:
    quoted = packet[: IPV6_MINIMUM_MTU - 48]
    addresses = packet[24:40] + packet[8:24]
    size = _ICMP6.size + len(quoted)
    pseudo_header = addresses + struct.pack("!II", size, ICMPV6)
    checksum = internet_checksum(pseudo_header + _ICMP6.pack(2, 0, 0, mtu) + quoted)
    header = _IPV6.pack(6 << 28, size, ICMPV6, HOP_LIMIT) + addresses
    return header + _ICMP6.pack(2, 0, checksum, mtu) + quoted
