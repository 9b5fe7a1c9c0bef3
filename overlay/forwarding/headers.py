"""Parse the headers of IPv4 and IPv6 packets, with a bounded number of steps.

The rules at the source and at the exit share this parser.

::

    IPv4   header (20) | options (0..40)                        | upper layer
    IPv6   header (40) | hop-by-hop, destination options (8n)*  | fragment (8)? | upper layer

No input raises an exception, because an exception would cost more CPU time than the parse. The
result is :class:`IpHeaders` or a :class:`DropReason`, which the caller counts.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

from overlay.forwarding.checksum import has_valid_sum

__all__ = [
    "ATOMIC",
    "ICMP",
    "ICMPV6",
    "IPV6_FRAGMENT",
    "TCP",
    "UDP",
    "DropReason",
    "IpHeaders",
    "destination_of",
    "parse_headers",
]

ICMP: Final = 1
TCP: Final = 6
UDP: Final = 17
ICMPV6: Final = 58

ATOMIC: Final = b"\0\0\x40\0"
"""Bytes 4 to 8 of an atomic IPv4 datagram (RFC 6864): identification 0, "don't fragment" set."""

IPV6_HOP_BY_HOP: Final = 0
IPV6_ROUTING: Final = 43
IPV6_FRAGMENT: Final = 44
IPV6_DESTINATION_OPTIONS: Final = 60
_EXTENSIONS: Final = frozenset(
    (IPV6_HOP_BY_HOP, IPV6_ROUTING, IPV6_FRAGMENT, IPV6_DESTINATION_OPTIONS)
)

_MAX_EXTENSIONS: Final = 4
"""RFC 8200, section 4.1: hop-by-hop options, destination options twice, and a fragment header."""

_MIN_UPPER_BYTES: Final = {TCP: 20, UDP: 8, ICMP: 8, ICMPV6: 8}


class DropReason(enum.Enum):
    """Why a rule dropped a packet; the values are the names of the counters."""

    MALFORMED = "dropped_malformed"
    PROTOCOL = "dropped_protocol"
    ICMP_TYPE = "dropped_icmp_type"
    ROUTING_HEADER = "dropped_routing_header"
    IP_OPTIONS = "dropped_ip_options"
    EXIT_POLICY = "dropped_exit_policy"
    LOCAL_ADDRESS = "dropped_local_address"


class IpHeaders(NamedTuple):
    """The parsed headers of one packet; offsets are in bytes from its start.

    ``upper`` is the offset of the upper-layer header. ``fragment_offset`` is in units of 8 bytes.
    ``fragment_header`` is the offset of the IPv6 Fragment header, 0 if there is none.
    ``has_options`` is set for IPv4 options and for IPv6 hop-by-hop or destination options.
    """

    version: int
    protocol: int
    upper: int
    is_fragment: bool
    fragment_offset: int
    fragment_header: int
    has_options: bool


def destination_of(packet: bytes, version: int) -> bytes:
    """Return the destination of a parsed packet as 4 or 16 bytes."""
    return packet[16:20] if version == 4 else packet[24:40]


def parse_headers(packet: bytes) -> IpHeaders | DropReason:
    """Return the IP headers of a packet, or the reason to drop it.

    Lengths must fit exactly, and the IPv4 header checksum must be valid. A packet or first
    fragment must contain its whole TCP, UDP or ICMP header (RFC 1858, section 3.2.1; RFC 7112).
    """
    version = packet[0] >> 4 if packet else 0
    if version == 4:
        headers = _parse_ipv4(packet)
    elif version == 6:
        headers = _parse_ipv6(packet)
    else:
        return DropReason.MALFORMED
    if isinstance(headers, DropReason) or headers.fragment_offset:
        return headers
    return headers if _upper_is_whole(packet, headers) else DropReason.MALFORMED


def _parse_ipv4(packet: bytes) -> IpHeaders | DropReason:
    if len(packet) < 20:
        return DropReason.MALFORMED
    upper = (packet[0] & 0x0F) * 4
    if not 20 <= upper <= len(packet) or int.from_bytes(packet[2:4], "big") != len(packet):
        return DropReason.MALFORMED
    if not has_valid_sum(packet[:upper]):
        return DropReason.MALFORMED
    flags = int.from_bytes(packet[6:8], "big")
    offset, more = flags & 0x1FFF, bool(flags & 0x2000)
    if not _fragment_fits(offset, more=more, size=len(packet) - upper):
        return DropReason.MALFORMED
    return IpHeaders(4, packet[9], upper, more or offset > 0, offset, 0, upper > 20)


def _parse_ipv6(packet: bytes) -> IpHeaders | DropReason:
    if len(packet) <= 40 or int.from_bytes(packet[4:6], "big") != len(packet) - 40:
        return DropReason.MALFORMED
    protocol, upper, has_options = packet[6], 40, False
    for position in range(_MAX_EXTENSIONS):
        if protocol == IPV6_ROUTING:
            return DropReason.ROUTING_HEADER
        if protocol == IPV6_FRAGMENT:
            return _parse_ipv6_fragment(packet, upper, has_options=has_options)
        if protocol not in _EXTENSIONS:
            return IpHeaders(6, protocol, upper, False, 0, 0, has_options)  # noqa: FBT003 - a tuple's fields, in order
        # Hop-by-hop options may only come first (RFC 8200, section 4.1).
        if upper + 8 > len(packet) or (protocol == IPV6_HOP_BY_HOP and position):
            return DropReason.MALFORMED
        protocol, upper = packet[upper], upper + 8 * (packet[upper + 1] + 1)
        has_options = True
    return DropReason.MALFORMED


def _parse_ipv6_fragment(packet: bytes, at: int, *, has_options: bool) -> IpHeaders | DropReason:
    upper = at + 8
    if upper > len(packet):
        return DropReason.MALFORMED
    protocol = packet[at]
    field = int.from_bytes(packet[at + 2 : at + 4], "big")
    offset, more = field >> 3, bool(field & 1)
    # Options in the fragmentable part cannot be removed from one fragment alone. Honest hosts
    # do not send them, because they only hide the upper-layer header.
    if protocol in _EXTENSIONS or not _fragment_fits(offset, more=more, size=len(packet) - upper):
        return DropReason.MALFORMED
    return IpHeaders(6, protocol, upper, more or offset > 0, offset, at, has_options)


def _fragment_fits(offset: int, *, more: bool, size: int) -> bool:
    """Tell whether a fragment is valid: a multiple of 8 bytes unless last, end below 65,536."""
    if more and (size == 0 or size % 8):
        return False
    return not offset or (size > 0 and offset * 8 + size <= 65535)


def _upper_is_whole(packet: bytes, headers: IpHeaders) -> bool:
    size = len(packet) - headers.upper
    if size < _MIN_UPPER_BYTES.get(headers.protocol, 0):
        return False
    if headers.protocol == TCP:
        return 20 <= (packet[headers.upper + 12] >> 4) * 4 <= size
    if headers.protocol == UDP and not headers.is_fragment:
        return int.from_bytes(packet[headers.upper + 4 : headers.upper + 6], "big") == size
    return True
