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

__all__ = [
    "FRAGMENT",
    "MAX_INCOMPLETE",
    "MAX_OF_LINK",
    "MAX_PIECES",
    "Pieces",
    "cut",
    "is_piece",
]

FRAGMENT: Final = 44
"""Next header of an IPv6 fragment header."""

MAX_PIECES: Final = 8
"""Of one packet: with 1,200 bytes a link this suffices for any packet that nodes make."""

MAX_INCOMPLETE: Final = 1024
"""Packets of all links whose pieces are awaited; a new one takes the place of the oldest.

Honest ones wait for milliseconds, so a peer that completes none pushes out its own.
"""

MAX_OF_LINK: Final = 16
"""The same for one link."""

_MAX_PIECE_BYTES: Final = 2048
"""With the bounds above, a node remembers 16 MB of pieces at most, and 256 kB of one link."""

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
    parts: dict[int, bytes] = field(default_factory=dict)
    total: int | None = None

    def join(self) -> bytes | None:
        """Return the whole body if it is there without gaps."""
        if self.total is None:
            return None
        joined = b"".join(self.parts[start] for start in sorted(self.parts))
        return joined if len(joined) == self.total else None

    def contradicts(self, start: int, end: int, *, more: bool) -> bool:
        """Tell whether a piece overlaps another one, or if a piece lies behind the packet's end."""
        if self.total is not None and (not more or end > self.total):
            return True
        return any(
            (at < end and start < at + len(part)) or (not more and at >= end)
            for at, part in self.parts.items()
        )


class Pieces:
    """The packets of all links that have not arrived whole; each piece is authentic.

    Peers fill it, so it is bounded for each link and for all together.
    """

    __slots__ = ("_links", "_order")

    def __init__(self) -> None:
        self._links: dict[int, dict[_Key, _Incomplete]] = {}
        self._order: dict[tuple[int, _Key], float] = {}

    def __len__(self) -> int:
        return len(self._order)

    def add(self, link: int, packet: bytes, now: float) -> bytes | None:
        """Take an IPv6 packet with a fragment header; return the whole packet it completes.

        Pieces that overlap end their packet (RFC 5722).

        Args:
            link: reqid of the link that it came over.
            packet: as the link's SA has opened it.
            now: Unix seconds.
        """
        read = _read(packet)
        if read is None:
            return None
        key, start, more, data = read
        self._forget_old(now)
        found = self._links.get(link, {}).get(key) or self._begin(link, key, now)
        end = start + len(data)
        if len(found.parts) >= MAX_PIECES or found.contradicts(start, end, more=more):
            self._forget(link, key)
            return None
        found.parts[start] = data
        if not more:
            found.total = end
        body = found.join()
        if body is None:
            return None
        self._forget(link, key)
        return _whole(packet, body)

    def _begin(self, link: int, key: _Key, now: float) -> _Incomplete:
        of_link = self._links.get(link, {})
        if len(of_link) >= MAX_OF_LINK:
            self._forget(link, next(iter(of_link)))
        elif len(self._order) >= MAX_INCOMPLETE:
            self._forget(*next(iter(self._order)))
        new = self._links.setdefault(link, {})[key] = _Incomplete()
        self._order[link, key] = now
        return new

    def _forget_old(self, now: float) -> None:
        while self._order:
            oldest, began_at = next(iter(self._order.items()))
            if 0 <= now - began_at <= _MAX_AGE_S:  # after a step of the clock nothing is kept
                return
            self._forget(*oldest)

    def _forget(self, link: int, key: _Key) -> None:
        del self._order[link, key]
        del self._links[link][key]
        if not self._links[link]:
            del self._links[link]


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
