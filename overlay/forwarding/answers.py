"""Normalise packets from destinations at the exit, before they enter a circuit.

The packet filter of the exit's host does the same where it can (``overlay.system.normalisation``).
Packets that it has normalised pass here unchanged. ::

    hop limit, TTL            64
    DSCP, ECN, flow label     0
    IPv4, no fragment         identification 0, "don't fragment" set (RFC 6864, section 4.1)

The source does not need the values that a server chose. Relays cannot see them inside the onion
layers, but a kernel that copies inner header fields outwards would reveal them (decision 0034).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from overlay.forwarding.checksum import internet_checksum
from overlay.forwarding.headers import ATOMIC
from overlay.forwarding.normalise import HOP_LIMIT

__all__ = ["normalised_answers"]

_IPV6_START: Final = b"\x60\0\0\0"
_IPV6_HEADER: Final = 40
_IPV4_HEADER: Final = 20
_FRAGMENT: Final = 0x3FFF
"""Bits of "more fragments" and of the fragment offset; both are 0 in a packet without fragments."""


def normalised_answers(packets: Sequence[bytes]) -> list[bytes]:
    """Return the packets in order; a packet that needs no change is returned as the same object.

    The packets come from the exit's device and fit a circuit, so none is fragmented later. Data
    that is too short for an IP packet is returned unchanged.
    """
    return [_ipv6(packet) if packet[:1] >= b"\x60" else _ipv4(packet) for packet in packets]


def _ipv6(packet: bytes) -> bytes:
    if len(packet) < _IPV6_HEADER or (packet[:4] == _IPV6_START and packet[7] == HOP_LIMIT):
        return packet
    return _IPV6_START + packet[4:7] + bytes((HOP_LIMIT,)) + packet[8:]


def _ipv4(packet: bytes) -> bytes:
    if len(packet) < _IPV4_HEADER:
        return packet
    is_fragment = int.from_bytes(packet[6:8], "big") & _FRAGMENT
    identity = packet[4:8] if is_fragment else ATOMIC
    if packet[1] == 0 and packet[8] == HOP_LIMIT and packet[4:8] == identity:
        return packet
    upper = (packet[0] & 0x0F) * 4
    if not _IPV4_HEADER <= upper <= len(packet):
        return packet
    changed = bytes((HOP_LIMIT, packet[9], 0, 0))
    header = packet[:1] + b"\0" + packet[2:4] + identity + changed + packet[12:upper]
    checksum = internet_checksum(header).to_bytes(2, "big")
    return header[:10] + checksum + header[12:] + packet[upper:]
