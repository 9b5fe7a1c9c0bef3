"""Join TCP segments of one flow to super-packets, as the kernel's receive offload (GRO) does.

A segment joins the previous one of its flow if the kernel would cut the result into exactly these
segments again: same headers, next sequence number, same size (the last may be smaller), valid
checksums, and no flag but ACK and, on the last one, PSH. Any other packet passes unchanged and ends
the run of its flow, so that no packet overtakes another of the same flow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from overlay.forwarding.checksum import has_valid_sum, internet_checksum, ones_complement_sum
from overlay.forwarding.headers import ATOMIC, TCP
from overlay.offload.super_packets import MAX_PACKET_BYTES

__all__ = ["joined"]

_ACK: Final = 0x10
_ACK_PSH: Final = 0x18
_ONES: Final = 0xFFFF


def joined(packets: Sequence[bytes], segment_bytes: int) -> list[bytes]:
    """Return the packets with runs of segments joined; the order within a flow stays.

    Args:
        packets: IP packets with a valid length of at least an IP header.
        segment_bytes: size of a whole segment, IP header included. Only packets of this size
            begin a run, so that every super-packet can be cut without further information.

    Returns:
        Packets and super-packets. The TCP checksum of a super-packet is 0.
    """
    if len(packets) < 2:
        return list(packets)
    result: list[bytes] = []
    open_runs: dict[bytes, _Run] = {}
    runs: list[_Run] = []
    for packet in packets:
        upper = _tcp_at(packet)
        if not upper:
            result.append(packet)
            continue
        flow = packet[12:24] if upper == 20 else packet[8:44]
        run = open_runs.get(flow)
        if run is not None and run.takes(packet):
            continue
        if len(packet) == segment_bytes and packet[upper + 13] == _ACK:
            run = open_runs[flow] = _Run(packet, upper, len(result))
            runs.append(run)
        elif run is not None:
            del open_runs[flow]
        result.append(packet)
    for run in runs:
        if run.parts:
            result[run.place] = run.whole()
    return result


class _Run:
    """A segment and those that follow it; ``place`` is the index of the first in the result."""

    __slots__ = (
        "checked",
        "ended",
        "first",
        "parts",
        "place",
        "pushes",
        "sequence",
        "size",
        "start",
        "upper",
    )

    def __init__(self, first: bytes, upper: int, place: int) -> None:
        self.first = first
        self.upper = upper
        self.place = place
        self.start = upper + ((first[upper + 12] >> 4) << 2)
        self.size = len(first)
        self.sequence = _sequence(first, upper) + len(first) - self.start
        self.parts: list[memoryview] = []
        self.ended = self.pushes = self.checked = False

    def takes(self, segment: bytes) -> bool:
        """Append a segment if it continues the run, else return False."""
        first, upper, start = self.first, self.upper, self.start
        size = len(segment) - start
        flags = segment[upper + 13]
        if (
            self.ended
            or not 0 < size <= len(first) - start
            or self.size + size > MAX_PACKET_BYTES
            or _sequence(segment, upper) != self.sequence & 0xFFFFFFFF
            or (flags != _ACK and flags != _ACK_PSH)
            # acknowledgement number, offset and reserved bits; window; urgent pointer, options
            or segment[upper + 8 : upper + 13] != first[upper + 8 : upper + 13]
            or segment[upper + 14 : upper + 16] != first[upper + 14 : upper + 16]
            or segment[upper + 18 : start] != first[upper + 18 : start]
            or not self._has_same_ip_header(segment)
            or not _is_intact(segment, upper)
            or not self._first_is_sound()
        ):
            return False
        self.parts.append(memoryview(segment)[start:])
        self.size += size
        self.sequence += size
        self.pushes = flags == _ACK_PSH
        self.ended = self.pushes or len(segment) < len(first)
        return True

    def whole(self) -> bytes:
        """Return the super-packet."""
        header = bytearray(self.first[: self.start])
        if self.upper == 20:
            header[2:4] = self.size.to_bytes(2, "big")
            header[10:12] = b"\0\0"
            header[10:12] = internet_checksum(bytes(header[:20])).to_bytes(2, "big")
        else:
            header[4:6] = (self.size - 40).to_bytes(2, "big")
        header[self.upper + 16 : self.upper + 18] = b"\0\0"
        if self.pushes:
            header[self.upper + 13] = _ACK_PSH
        return b"".join((header, memoryview(self.first)[self.start :], *self.parts))

    def _has_same_ip_header(self, segment: bytes) -> bool:
        """Compare IP headers; in a shorter segment only the length (and its checksum) differ."""
        first, upper = self.first, self.upper
        if segment[:upper] == first[:upper]:
            return len(segment) == len(first)
        if upper == 40:
            length = int.from_bytes(segment[4:6], "big")
            same = segment[:4] == first[:4] and segment[6:40] == first[6:40]
            return same and length == len(segment) - 40
        return (
            segment[:2] == first[:2]
            and segment[4:10] == first[4:10]
            and segment[12:20] == first[12:20]
            and int.from_bytes(segment[2:4], "big") == len(segment)
            and has_valid_sum(segment[:20])
        )

    def _first_is_sound(self) -> bool:
        """Check, once, what the other segments are only compared with."""
        if self.checked:
            return True
        first, upper = self.first, self.upper
        if upper == 20:
            length = int.from_bytes(first[2:4], "big")
            is_plain = first[4:8] == ATOMIC and has_valid_sum(first[:20])
        else:
            length, is_plain = int.from_bytes(first[4:6], "big") + 40, True
        self.checked = (
            is_plain
            and length == len(first)
            and upper + 20 <= self.start < len(first)
            and _is_intact(first, upper)
        )
        self.ended = not self.checked
        return self.checked


def _tcp_at(packet: bytes) -> int:
    """Return the offset of the TCP header after a plain IP header, 0 if there is none."""
    if packet[0] == 0x45:
        return 20 if len(packet) >= 40 and packet[9] == TCP else 0
    return 40 if packet[0] >> 4 == 6 and len(packet) >= 60 and packet[6] == TCP else 0


def _sequence(packet: bytes, upper: int) -> int:
    return int.from_bytes(packet[upper + 4 : upper + 8], "big")


def _is_intact(packet: bytes, upper: int) -> bool:
    """Tell whether the TCP checksum is valid, so that joining hides no damage."""
    # Addresses and TCP stand next to each other, so that one sum covers both.
    covered = memoryview(packet)[12 if upper == 20 else 8 :]
    return (ones_complement_sum(covered) + TCP + len(packet) - upper) % _ONES == 0
