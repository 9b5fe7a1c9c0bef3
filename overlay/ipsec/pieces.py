"""Cut packets that are too large for a link into pieces, and join the pieces of the peer.

The entry of a tunnel cuts a packet (RFC 2473, section 7.1) into IPv6 fragments (RFC 8200, section
4.5) and seals each in an ESP packet of its own. So no IP fragment appears on the underlay, where
many networks drop fragments. All pieces of a packet have the same size there, because the last
one is padded (RFC 4303, section 2.7).
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
"""Maximum number of pieces of one packet.

With links of 1,200 bytes this is enough for any packet that nodes make.
"""

MAX_INCOMPLETE: Final = 1024
"""Maximum number of incomplete packets of all links together; a new one replaces the oldest.

A packet is normally complete within milliseconds. So a peer that completes none mostly displaces
its own packets.
"""

MAX_OF_LINK: Final = 16
"""Maximum number of incomplete packets of one link."""

_MAX_PIECE_BYTES: Final = 2048
"""With the limits above, all pieces take at most 16 MB, and those of one link 256 kB."""

_MAX_AGE_S: Final = 5.0
"""The pieces of a packet are sent together, so a much later piece belongs to another packet."""

_IPV6_HEADER: Final = 40
_FRAGMENT_HEADER: Final = struct.Struct(">BBHI")
_MORE: Final = 1
_Key = bytes


def is_piece(packet: bytes) -> bool:
    """Tell whether a packet with a valid header is a piece that a node has cut.

    Fragments that applications send have other destination addresses and are not pieces.
    """
    if packet[0] >> 4 != 6 or packet[6] != FRAGMENT:
        return False
    destination = packet[24:40]
    return is_overlay_address(destination) or is_circuit_address(destination)


def cut(packet: bytes, largest: int, identification: int) -> list[bytes] | None:
    """Return an IPv6 packet cut into fragments of at most ``largest`` bytes.

    All fragments have the same size, except that the last may be up to 56 bytes shorter.
    ``identification`` has 32 random bits. The result is None if the packet is not IPv6, is a
    fragment itself, or needs more than ``MAX_PIECES`` fragments.
    """
    if packet[0] >> 4 != 6 or packet[6] == FRAGMENT:
        return None
    # Fragment offsets count units of 8 bytes (RFC 8200, section 4.5).
    room = (largest - _IPV6_HEADER - _FRAGMENT_HEADER.size) & ~7
    body = memoryview(packet)[_IPV6_HEADER:]
    if room < 8:
        return None
    count = -(-len(body) // room)
    size = (-(-len(body) // count) + 7) & ~7  # equal sizes, so that the last needs little padding
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
        """Return the whole body, or None while a part is missing."""
        if self.total is None:
            return None
        joined = b"".join(self.parts[start] for start in sorted(self.parts))
        return joined if len(joined) == self.total else None

    def contradicts(self, start: int, end: int, *, more: bool) -> bool:
        """Tell whether a piece overlaps another, or a piece is beyond the end of the packet."""
        if self.total is not None and (not more or end > self.total):
            return True
        return any(
            (at < end and start < at + len(part)) or (not more and at >= end)
            for at, part in self.parts.items()
        )


class Pieces:
    """The incomplete packets of all links; the link SA has authenticated each piece.

    Peers decide what is stored here, so the number is limited per link and in total.
    """

    __slots__ = ("_links", "_order")

    def __init__(self) -> None:
        self._links: dict[int, dict[_Key, _Incomplete]] = {}
        self._order: dict[tuple[int, _Key], float] = {}

    def __len__(self) -> int:
        return len(self._order)

    def add(self, link: int, packet: bytes, now: float) -> bytes | None:
        """Add a piece; return the whole packet if this piece completes it, else None.

        If two pieces overlap, the whole packet is dropped (RFC 5722).

        Args:
            link: reqid of the link over which the piece came.
            packet: an IPv6 packet with a fragment header, as the link SA opened it.
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
            if 0 <= now - began_at <= _MAX_AGE_S:  # negative after the clock was set back
                return
            self._forget(*oldest)

    def _forget(self, link: int, key: _Key) -> None:
        del self._order[link, key]
        del self._links[link][key]
        if not self._links[link]:
            del self._links[link]


def _read(packet: bytes) -> tuple[_Key, int, bool, bytes] | None:
    """Return key, offset, whether more pieces follow, and the data; None if it is invalid."""
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
