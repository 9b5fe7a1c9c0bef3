"""Remove the options of a TCP SYN that identify its host; only three options remain.

======================  ================================================================
Maximum segment size    kept, but at most the path's (RFC 9293, section 3.7.1)
Window scale            kept: a connection without it is slow (RFC 7323)
SACK permitted          kept, for the same reason (RFC 2018)
Timestamps              removed: their clock identifies the host (RFC 7323, section 5.4)
Fast Open cookie        removed: a server recognises its client by it (RFC 7413)
any other               removed: MPTCP options contain addresses, others reveal the system
======================  ================================================================

A connection never uses an option that its SYN does not offer, so later segments need no change.
The flags of ECN are cleared too, because the rules clear its bits in every IP header. Removed
options are overwritten with no-operations, so that the segment keeps its length.
"""

from __future__ import annotations

from typing import Final

from overlay.forwarding.checksum import updated_checksum

__all__ = ["is_syn", "normalised_syn"]

_END: Final = 0
_NOP: Final = 1
_MAXIMUM_SEGMENT_SIZE: Final = 2
_KEPT: Final = {_MAXIMUM_SEGMENT_SIZE: 4, 3: 3, 4: 2}
"""Kind -> length of the options that pass: MSS, window scale, SACK permitted."""

_FLAG_SYN: Final = 0x02
_ECN_FLAGS: Final = 0xC0


def is_syn(segment: bytes) -> bool:
    """Tell whether a TCP segment of at least 20 bytes opens a connection (SYN or SYN-ACK)."""
    return bool(segment[13] & _FLAG_SYN)


def normalised_syn(segment: bytes, mss: int) -> bytes | None:
    """Return a SYN with an MSS of at most ``mss`` bytes and without identifying options.

    The segment must contain the whole TCP header. The checksum is updated incrementally. The
    result is None if the options cannot be parsed.
    """
    size = (segment[12] >> 4) * 4
    header = bytearray(segment[:size])
    header[12] &= 0xF0
    header[13] &= ~_ECN_FLAGS
    if not _normalise_options(header, mss):
        return None
    if header == segment[:size]:
        return segment
    checksum = int.from_bytes(header[16:18], "big")
    header[16:18] = updated_checksum(checksum, segment[:size], bytes(header)).to_bytes(2, "big")
    return bytes(header) + segment[size:]


def _normalise_options(header: bytearray, mss: int) -> bool:
    """Rewrite the options in place; return False if the length of an option is invalid."""
    at = 20
    while at < len(header):
        kind = header[at]
        if kind == _END:
            header[at:] = bytes(len(header) - at)
            return True
        if kind == _NOP:
            at += 1
            continue
        end = at + header[at + 1] if at + 1 < len(header) else 0
        if not at + 2 <= end <= len(header) or end - at != _KEPT.get(kind, end - at):
            return False
        if kind == _MAXIMUM_SEGMENT_SIZE:
            _clamp(header, at + 2, mss)
        elif kind not in _KEPT:
            header[at:end] = bytes((_NOP,)) * (end - at)
        at = end
    return True


def _clamp(header: bytearray, at: int, mss: int) -> None:
    if int.from_bytes(header[at : at + 2], "big") > mss:
        header[at : at + 2] = mss.to_bytes(2, "big")
