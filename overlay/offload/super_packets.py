"""Cut TCP super-packets into segments, and complete checksums that the kernel left to the device.

A *super-packet* is one TCP/IP packet that is larger than a segment of a path. It stands for
consecutive segments of one size, and its TCP checksum has no meaning. The kernel hands over such
packets if a TUN device offers segmentation offload (TSO), so that one system call, one test of the
rules and one lookup serve up to 64 kB::

    IP, TCP | data (60 kB)    -- cut -->   IP, TCP | data (998)   IP, TCP | data (998)   ...

Only *atomic* packets (RFC 6864, section 4) become super-packets after this module: IPv4 with "don't
fragment" and identification 0, or IPv6 without extension headers. The segments then differ in
nothing but length, sequence number, the flags FIN and PSH, and checksums.

Reasons: docs/decisions/0066.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from overlay.forwarding.checksum import internet_checksum, ones_complement_sum
from overlay.forwarding.headers import ATOMIC, TCP, UDP

__all__ = [
    "MAX_PACKET_BYTES",
    "completed",
    "cut",
    "cut_all",
    "cut_datagrams",
    "is_super_packet",
    "pseudo_header_sum",
    "tcp_payload_at",
]

MAX_PACKET_BYTES: Final = 65_535
"""Largest IPv4 packet; an IPv6 super-packet stays below it too."""

_ONES: Final = 0xFFFF
_FIN: Final = 0x01
_PSH: Final = 0x08
_CWR: Final = 0x80
_UNCUTTABLE: Final = 0x26
"""SYN, RST and URG: the kernel offers no such packet for segmentation."""

_FRAGMENT_BITS: Final = 0x3FFF
_PROTOCOL_AT: Final = {4: 9, 6: 6}
_pack_u16: Final = struct.Struct("!H").pack_into
_pack_u32: Final = struct.Struct("!I").pack_into


def is_super_packet(packet: bytes, segment_bytes: int) -> bool:
    """Tell whether a packet is TCP, and larger than a segment (``segment_bytes`` with IP header).

    A fragment and a segment with SYN, RST or URG are none.
    """
    return len(packet) > segment_bytes and tcp_payload_at(packet) is not None


def tcp_payload_at(packet: bytes) -> int | None:
    """Return the offset of a packet's TCP payload, None if the packet cannot be cut.

    It cannot if it is not TCP, is a fragment, has IPv6 extension headers, a header that is cut
    off, or a flag that no segment of several has (SYN, RST, URG).
    """
    at = _upper_at(packet, TCP)
    if at is None or len(packet) < at + 20:
        return None
    end = at + ((packet[at + 12] >> 4) << 2)
    cuttable = at + 20 <= end <= len(packet) and not packet[at + 13] & _UNCUTTABLE
    return end if cuttable else None


def cut(packet: bytes, payload_bytes: int) -> list[bytes]:
    """Return the segments of a TCP packet, with valid checksums (RFC 9293, section 3.1).

    FIN and PSH stay in the last segment only and CWR in the first, as the kernel's segmentation
    does. IPv4 identifications count up from that of the packet, unless the packet is atomic.

    Args:
        packet: an IP packet with TCP; its IPv4 and TCP checksums are not read.
        payload_bytes: TCP payload of every segment but the last, at least 1.

    Returns:
        The segments in order; none if the packet cannot be cut (:func:`tcp_payload_at`).
    """
    start = tcp_payload_at(packet)
    if start is None or payload_bytes < 1:
        return []
    upper = _upper_at(packet, TCP) or 0
    flags = packet[upper + 13]
    sequence = int.from_bytes(packet[upper + 4 : upper + 8], "big")
    data, header = memoryview(packet)[start:], bytearray(packet[:start])
    segments: list[bytes] = []
    for number, at in enumerate(range(0, len(data) or 1, payload_bytes)):
        part = data[at : at + payload_bytes]
        is_last = at + payload_bytes >= len(data)
        kept = flags & ~((0 if is_last else _FIN | _PSH) | (_CWR if number else 0))
        header[upper + 13] = kept
        _pack_u32(header, upper + 4, (sequence + at) & 0xFFFFFFFF)
        if is_last or not number:
            _set_length(header, start + len(part))
        _set_identification(header, packet, number)
        header[upper + 16 : upper + 18] = b"\0\0"
        total = pseudo_header_sum(header, start - upper + len(part))
        total += ones_complement_sum(header[upper:]) + ones_complement_sum(part)
        _pack_u16(header, upper + 16, _ONES - (total % _ONES or _ONES))
        segments.append(b"".join((header, part)))
    return segments


def cut_all(packets: Sequence[bytes], segment_bytes: int) -> Sequence[bytes]:
    """Return the packets with every super-packet cut into segments of ``segment_bytes``."""
    if all(len(packet) <= segment_bytes for packet in packets):
        return packets
    result: list[bytes] = []
    for packet in packets:
        payload_at = tcp_payload_at(packet) if len(packet) > segment_bytes else None
        if payload_at is None or payload_at >= segment_bytes:
            result.append(packet)
        else:
            result.extend(cut(packet, segment_bytes - payload_at))
    return result


def cut_datagrams(packet: bytes, payload_bytes: int) -> list[bytes]:
    """Return the UDP datagrams for which one large packet stands (UDP segmentation offload).

    Arguments and result are those of :func:`cut`; each datagram has ``payload_bytes`` of UDP
    payload, the last one the rest.
    """
    upper = _upper_at(packet, UDP)
    if upper is None or len(packet) <= upper + 8 or payload_bytes < 1:
        return []
    data, header = memoryview(packet)[upper + 8 :], bytearray(packet[: upper + 8])
    datagrams: list[bytes] = []
    for number, at in enumerate(range(0, len(data), payload_bytes)):
        part = data[at : at + payload_bytes]
        _set_length(header, upper + 8 + len(part))
        _set_identification(header, packet, number)
        _pack_u16(header, upper + 4, 8 + len(part))
        header[upper + 6 : upper + 8] = b"\0\0"
        total = (
            pseudo_header_sum(header, 8 + len(part))
            + ones_complement_sum(header[upper:])
            + ones_complement_sum(part)
        )
        _pack_u16(header, upper + 6, _ONES - (total % _ONES) or _ONES)
        datagrams.append(b"".join((header, part)))
    return datagrams


def completed(packet: bytes, start: int, at: int) -> bytes | None:
    """Return a packet with the checksum that the kernel left to its device (CHECKSUM_PARTIAL).

    Args:
        packet: an IP packet whose checksum field holds the sum of the pseudo header.
        start: offset of the first byte that the checksum covers.
        at: offset of the checksum field, counted from ``start``.

    Returns:
        The packet; None if the field is not inside of it.
    """
    field = start + at
    if field + 2 > len(packet):
        return None
    # The sum covers its own field, which holds the sum of the pseudo header.
    checksum = _ONES - (ones_complement_sum(memoryview(packet)[start:]) or _ONES)
    # A UDP checksum of 0 would mean that there is none (RFC 768); TCP takes both forms of zero.
    return packet[:field] + (checksum or _ONES).to_bytes(2, "big") + packet[field + 2 :]


def pseudo_header_sum(header: bytes | bytearray, upper_bytes: int) -> int:
    """Return the sum of the pseudo header (RFC 9293, section 3.1; RFC 8200, section 8.1).

    Args:
        header: begins with the IP header of a packet without extension headers.
        upper_bytes: length of the upper-layer header and its payload.
    """
    version = header[0] >> 4
    addresses = header[12:20] if version == 4 else header[8:40]
    return (ones_complement_sum(addresses) + header[_PROTOCOL_AT[version]] + upper_bytes) % _ONES


def _upper_at(packet: bytes, protocol: int) -> int | None:
    """Return the offset of the upper-layer header if it has this protocol and is not cut off."""
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= 20:
        at = (packet[0] & 0x0F) << 2
        whole = not int.from_bytes(packet[6:8], "big") & _FRAGMENT_BITS
        return at if at >= 20 and whole and packet[9] == protocol else None
    return 40 if version == 6 and len(packet) >= 40 and packet[6] == protocol else None


def _set_length(header: bytearray, total: int) -> None:
    if header[0] >> 4 == 6:
        _pack_u16(header, 4, total - 40)
        return
    _pack_u16(header, 2, total)
    _sign(header)


def _set_identification(header: bytearray, packet: bytes, number: int) -> None:
    """Count up the IPv4 identification; that of an atomic packet stays 0 (RFC 6864)."""
    if not number or header[0] >> 4 == 6 or packet[4:8] == ATOMIC:
        return
    _pack_u16(header, 4, (int.from_bytes(packet[4:6], "big") + number) & _ONES)
    _sign(header)


def _sign(header: bytearray) -> None:
    size = (header[0] & 0x0F) << 2
    header[10:12] = b"\0\0"
    header[10:12] = internet_checksum(bytes(header[:size])).to_bytes(2, "big")
