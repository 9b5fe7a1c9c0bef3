"""Build ICMP "packet too big" for a program on the source's host.

Programs learn from it the size of packets that fit a circuit (path MTU discovery).
"""

from __future__ import annotations

from typing import Final

from overlay.forwarding.headers import DropReason, parse_headers
from overlay.forwarding.icmp_errors import (
    IPV6_MINIMUM_MTU,
    error_ipv4,
    error_ipv6,
    has_answerable_ends,
    is_icmp_error,
)

__all__ = ["IPV6_MINIMUM_MTU", "packet_too_big"]

_DONT_FRAGMENT: Final = 0x40


def packet_too_big(packet: bytes, path_mtu: int) -> bytes | None:
    """Return the error for a packet larger than ``path_mtu`` bytes, or None if there is none.

    IPv4: destination unreachable, fragmentation needed, with the next hop's MTU (RFC 792,
    type 3 code 4; RFC 1191, section 4), only if the packet must not be fragmented. IPv6:
    packet too big (RFC 4443, section 3.2), with an MTU of at least 1,280 bytes. There is no error
    for an ICMP error, a later fragment, a multicast address or a packet that cannot be parsed
    (RFC 1812, section 4.3.2.7; RFC 4443, section 2.4 e).
    """
    headers = parse_headers(packet)
    if isinstance(headers, DropReason) or headers.fragment_offset or is_icmp_error(packet, headers):
        return None
    mtu = path_mtu if headers.version == 4 else max(path_mtu, IPV6_MINIMUM_MTU)
    if len(packet) <= mtu or not _may_be_answered(packet, headers.version):
        return None
    if headers.version == 4:
        return error_ipv4(packet, code=4, rest=mtu)
    return error_ipv6(packet, kind=2, code=0, rest=mtu)


def _may_be_answered(packet: bytes, version: int) -> bool:
    if version == 4 and not packet[6] & _DONT_FRAGMENT:
        return False
    return has_answerable_ends(packet, version)
