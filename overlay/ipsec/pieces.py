"""Packets that exceed what a link carries travel in pieces inside the link's ESP packets.

The entry of a tunnel cuts (RFC 2473, section 7.1) into IPv6 fragments (RFC 8200, section 4.5), each
with an ESP packet of its own. So no IP fragment appears on the wire, which many lines drop, and
all pieces of a packet have one size there: the last one is padded (RFC 4303, section 2.7).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

from overlay.addresses import is_circuit_address, is_overlay_address

__all__ = ["FRAGMENT", "MAX_PIECES", "Pieces", "cut", "is_piece"]

FRAGMENT: Final = 44
"""Next header of an IPv6 fragment header."""

MAX_PIECES: Final = 8
"""Of one packet: with 1,200 bytes a link this suffices for any packet that nodes make."""

_MAX_INCOMPLETE: Final = 16
"""Packets of one SA whose pieces are awaited; a new one takes the place of the oldest."""

_MAX_PIECE_BYTES: Final = 2048
"""With the bounds above, one SA remembers 256 kB at most."""

_MAX_AGE_S: Final = 5.0
"""The pieces of a packet leave together, so what comes later belongs to another packet."""

_IPV6_HEADER: Final = 40
_FRAGMENT_HEADER: Final = struct.Struct(">BBHI")
_MORE: Final = 1
_Key = bytes


def is_piece(packet: bytes) -> bool:
    """Tell whether a packet with a sound header is a fragment of a packet of nodes.

    Fragments that programs sent have other addresses; they pass as they are.
    """
    if packet[0] >> 4 != 6 or packet[6] != FRAGMENT:
        return False
    destination = packet[24:40]
    return is_overlay_address(destination) or is_circuit_address(destination)


def cut(packet: bytes, largest: int, identification: int) -> list[bytes] | None:
    """Cut an IPv6 packet into fragments of at most ``largest`` bytes.

    All have one size but the last, which may be up to 56 bytes shorter. ``identification`` are 32
    random bits. None if the packet is no IPv6 packet, is a fragment, or needs too many.
    """
    if packet[0] >> 4 != 6 or packet[6] == FRAGMENT:
        return None
    room = (largest - _IPV6_HEADER - _FRAGMENT_HEADER.size) & ~7
    body = memoryview(packet)[_IPV6_HEADER:]
    if room < 8:
        return None
    count = -(-len(body) // room)
    size = (-(-len(body) // count) + 7) & ~7
    if count > MAX_PIECES:
        return None
    return [
        _piece(packet, body[start : start + size], start, start + size < len(body), identification)
        for start in range(0, len(body), size)
    ]


def _piece(packet: bytes, data: memoryview, start: int, more: bool, identification: int) -> bytes:
    length = _FRAGMENT_HEADER.size + len(data)
    header = packet[:4] + length.to_bytes(2, "big") + bytes((FRAGMENT,)) + packet[7:_IPV6_HEADER]
    return header + _FRAGMENT_HEADER.pack(packet[6], 0, start | more, identification) + data


@dataclass(slots=True)
class _Incomplete:
    began_at: float
    parts: dict[int, bytes] = field(default_factory=dict)
    total: int | None = None

    def join(self) -> bytes | None:
        """Return the whole body if it is there without gaps."""
        if self.total is None:
            return None
        joined = b"".join(self.parts[start] for start in sorted(self.parts))
        return joined if len(joined) == self.total else None

    def overlaps(self, start: int, end: int) -> bool:
        return any(at < end and start < at + len(part) for at, part in self.parts.items())


class Pieces:
    """The packets of one SA that have not arrived whole; the SA has authenticated each piece."""

    __slots__ = ("_incomplete",)

    def __init__(self) -> None:
        self._incomplete: dict[_Key, _Incomplete] = {}

    def __len__(self) -> int:
        return len(self._incomplete)

    def add(self, packet: bytes, now: float) -> bytes | None:
        """Take an IPv6 packet with a fragment header; return the whole packet it completes.

        Pieces that overlap end their packet (RFC 5722). ``now`` is in Unix seconds.
        """
        read = _read(packet)
        if read is None:
            return None
        key, start, more, data = read
        end = start + len(data)
        found = self._incomplete.get(key)
        if found is None or now - found.began_at > _MAX_AGE_S:
            self._incomplete.pop(key, None)
            found = self._incomplete[key] = _Incomplete(now)
            if len(self._incomplete) > _MAX_INCOMPLETE:
                del self._incomplete[next(iter(self._incomplete))]
        ends_twice = found.total is not None and (not more or end > found.total)
        if ends_twice or len(found.parts) >= MAX_PIECES or found.overlaps(start, end):
            del self._incomplete[key]
            return None
        found.parts[start] = data
        if not more:
            found.total = end
        body = found.join()
        if body is None:
            return None
        del self._incomplete[key]
        return _whole(packet, body)


def _read(packet: bytes) -> tuple[_Key, int, bool, bytes] | None:
    """Return key, offset, whether more follow, and the data; None for what is no sound piece."""
    at = _IPV6_HEADER + _FRAGMENT_HEADER.size
    if not at < len(packet) <= _MAX_PIECE_BYTES:
        return None
    protocol, _, placed, identification = _FRAGMENT_HEADER.unpack_from(packet, _IPV6_HEADER)
    more, data = bool(placed & _MORE), packet[at:]
    if protocol == FRAGMENT or (more and len(data) % 8) or placed & 0xFFF8 > MAX_PIECES * 2048:
        return None
    key = packet[8:_IPV6_HEADER] + bytes((protocol,)) + identification.to_bytes(4, "big")
    return key, placed & 0xFFF8, more, data


def _whole(packet: bytes, body: bytes) -> bytes:
    protocol = packet[_IPV6_HEADER : _IPV6_HEADER + 1]
    return packet[:4] + len(body).to_bytes(2, "big") + protocol + packet[7:_IPV6_HEADER] + body
