"""Read the headers of inner IP packets with bounds checks, and build outer IP headers.

An outer header depends on nothing in the inner packet. RFC 4301, section 5.1.2 allows a tunnel to
copy DSCP, flow label and ECN to the outer header, and to derive the hop limit. Each field would
be a covert channel along the circuit: one hop could set it and another hop could read it. So
traffic class (and thereby ECN) and flow label are always 0, the hop limit is 64, and DF is clear.
"""

from __future__ import annotations

import struct
from random import Random
from typing import Final, Protocol

__all__ = [
    "ESP",
    "IPV4",
    "IPV6",
    "MAX_IP_BYTES",
    "NO_NEXT_HEADER",
    "OuterHeader",
    "is_ipv4_fragment",
    "new_outer_header",
    "packet_length",
]

IPV4: Final = 4
"""Next header of an IPv4 packet; these four are IANA protocol numbers."""
IPV6: Final = 41
ESP: Final = 50
NO_NEXT_HEADER: Final = 59

MAX_IP_BYTES: Final = 65535
"""Maximum of the 16-bit length field: an IPv4 packet, or the payload of an IPv6 packet."""

_HOP_LIMIT: Final = 64
_V6_FIRST_WORD: Final = 0x60000000
_pack_v6: Final = struct.Struct(">IH34s").pack
_pack_v4: Final = struct.Struct(">HHHHBBH8s").pack
_V4_FIRST_HALF_WORD: Final = 0x4500


def packet_length(data: bytes, end: int) -> int:
    """Return the length in bytes of the IP packet at the start of ``data[:end]``, 0 if none.

    A positive result means that the version is 4 or 6, the header is complete, and the packet
    ends at or before ``end``. So the caller can read addresses and next header without checks.
    """
    if end < 20:
        return 0
    version = data[0] >> 4
    if version == 6:
        length = 40 + (data[4] << 8) + data[5]
        return length if length <= end else 0
    length = (data[2] << 8) + data[3]
    header = (data[0] & 15) << 2
    return length if version == 4 and 20 <= header <= length <= end else 0


def is_ipv4_fragment(packet: bytes) -> bool:
    """Tell whether an IPv4 packet is a fragment, which means that its payload is incomplete."""
    return bool(packet[6] & 0x3F or packet[7])


class OuterHeader(Protocol):
    """Builder of the outer IP header of one SA."""

    def wrap(self, esp: bytes) -> bytes:
        """Return an IP packet with the payload ``esp``."""
        ...


class _OuterV6:
    __slots__ = ("_tail",)

    def __init__(self, source: bytes, destination: bytes) -> None:
        self._tail = bytes((ESP, _HOP_LIMIT)) + source + destination

    def wrap(self, esp: bytes) -> bytes:
        return _pack_v6(_V6_FIRST_WORD, len(esp), self._tail) + esp


class _OuterV4:
    """The builder for IPv4.

    DF is clear, so packets must have different identifications (RFC 6864). They are random.
    """

    __slots__ = ("_addresses", "_constant_sum", "_rng")

    def __init__(self, source: bytes, destination: bytes, rng: Random) -> None:
        self._addresses = source + destination
        self._rng = rng
        halves = struct.unpack(">4H", self._addresses)
        self._constant_sum = _V4_FIRST_HALF_WORD + (_HOP_LIMIT << 8) + ESP + sum(halves)

    def wrap(self, esp: bytes) -> bytes:
        length = 20 + len(esp)
        identification = self._rng.getrandbits(16)
        total = self._constant_sum + length + identification
        total = (total & 0xFFFF) + (total >> 16)
        checksum = ~(total + (total >> 16)) & 0xFFFF
        return (
            _pack_v4(
                _V4_FIRST_HALF_WORD,
                length,
                identification,
                0,
                _HOP_LIMIT,
                ESP,
                checksum,
                self._addresses,
            )
            + esp
        )


def new_outer_header(source: bytes, destination: bytes, rng: Random) -> OuterHeader:
    """Return the builder for two packed addresses of the same IP version."""
    if len(source) == 16:
        return _OuterV6(source, destination)
    return _OuterV4(source, destination, rng)
