"""IP headers as far as tunnels need them: bounded reads of inner ones, building of outer ones.

An outer header tells nothing of the packet inside. RFC 4301, section 5.1.2 lets a tunnel
copy DSCP, flow label and ECN outwards and the hop limit be derived; each would be a mark
that one hop sets and another reads, a covert channel along the whole circuit. So: traffic
class 0 (hence Not-ECT), flow label 0, hop limit 64, DF clear, always.
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
"""Next header of an IPv4 packet (IANA protocol numbers)."""
IPV6: Final = 41
ESP: Final = 50
NO_NEXT_HEADER: Final = 59

MAX_IP_BYTES: Final = 65535
"""What the 16-bit length of an IPv4 packet, or of an IPv6 payload, can count."""

_HOP_LIMIT: Final = 64
_V6_FIRST_WORD: Final = 0x60000000
_pack_v6: Final = struct.Struct(">IH34s").pack
_pack_v4: Final = struct.Struct(">HHHHBBH8s").pack
_V4_FIRST_HALF_WORD: Final = 0x4500


def packet_length(data: bytes, end: int) -> int:
    """Return the length of the IP packet at the front of ``data[:end]``, 0 if there is none.

    A positive result means: version 4 or 6, the whole header is there, and the packet ends
    at or before ``end``; so its addresses and next header can be read without checks.
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
    """Tell whether an IPv4 packet is a fragment: its payload is then no whole packet."""
    return bool(packet[6] & 0x3F or packet[7])


class OuterHeader(Protocol):
    """Builds what stands before the ESP packets of one SA."""

    def wrap(self, esp: bytes) -> bytes:
        """Return the IP packet whose payload ``esp`` is."""
        ...


class _OuterV6:
    __slots__ = ("_tail",)

    def __init__(self, source: bytes, destination: bytes) -> None:
        self._tail = bytes((ESP, _HOP_LIMIT)) + source + destination

    def wrap(self, esp: bytes) -> bytes:
        return _pack_v6(_V6_FIRST_WORD, len(esp), self._tail) + esp


class _OuterV4:
    """DF is clear, so the identification must differ (RFC 6864): it is drawn at random."""

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
    """Return the builder for two packed addresses of one family."""
    if len(source) == 16:
        return _OuterV6(source, destination)
    return _OuterV4(source, destination, rng)
