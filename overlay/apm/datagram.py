"""Build and parse IPv6 packets with UDP datagrams, for control messages (RFC 8200, RFC 768).

The checksum is always computed and checked, because UDP over IPv6 requires it (RFC 8200, section
8.1). The kernel of a peer would drop a packet without one.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from overlay.errors import Malformed

__all__ = ["HEADER_BYTES", "UdpDatagram", "build_datagram", "parse_datagram"]

HEADER_BYTES: Final = 48
"""IPv6 header (40) and UDP header (8)."""

_UDP: Final = 17
_HOP_LIMIT: Final = 64
_VERSION_6: Final = 6 << 28
_IPV6 = struct.Struct(">IHBB16s16s")
_UDP_HEADER = struct.Struct(">HHHH")


@dataclass(frozen=True, slots=True)
class UdpDatagram:
    """A UDP datagram between two packed IPv6 addresses."""

    source: bytes
    destination: bytes
    source_port: int
    destination_port: int
    payload: bytes


def build_datagram(datagram: UdpDatagram) -> bytes:
    """Return the IPv6 packet of a datagram, with traffic class 0, flow label 0, hop limit 64."""
    length = 8 + len(datagram.payload)
    udp = _UDP_HEADER.pack(datagram.source_port, datagram.destination_port, length, 0)
    body = udp + datagram.payload
    # A sum of zero is sent as all ones: zero would mean "no checksum" (RFC 768).
    checksum = _checksum(datagram.source, datagram.destination, body) or 0xFFFF
    header = _IPV6.pack(_VERSION_6, length, _UDP, _HOP_LIMIT, datagram.source, datagram.destination)
    return header + body[:6] + checksum.to_bytes(2, "big") + datagram.payload


def parse_datagram(packet: bytes) -> UdpDatagram:
    """Parse an IPv6 packet that contains exactly one UDP datagram and no extension headers.

    Raises:
        Malformed: it is any other packet, or its checksum is wrong.
    """
    if len(packet) < HEADER_BYTES:
        raise Malformed("too short for an IPv6 packet with a UDP datagram")
    first, length, next_header, _, source, destination = _IPV6.unpack_from(packet)
    if first >> 28 != 6 or next_header != _UDP or length != len(packet) - 40:
        raise Malformed("not an IPv6 packet with exactly one UDP datagram")
    source_port, destination_port, udp_length, checksum = _UDP_HEADER.unpack_from(packet, 40)
    if udp_length != length or checksum == 0:
        raise Malformed("a UDP datagram over IPv6 needs its length and its checksum")
    if _checksum(source, destination, packet[40:]) != 0:
        raise Malformed("the UDP checksum is wrong")
    return UdpDatagram(source, destination, source_port, destination_port, packet[48:])


def _checksum(source: bytes, destination: bytes, body: bytes) -> int:
    """Return the Internet checksum over pseudo-header and datagram (RFC 8200, section 8.1)."""
    covered = source + destination + struct.pack(">II", len(body), _UDP) + body
    if len(covered) % 2:
        covered += b"\0"
    # The ones' complement sum of 16-bit words is the remainder modulo 65,535 (RFC 1071).
    total = int.from_bytes(covered, "big") % 0xFFFF
    return 0xFFFF - total if total else 0
