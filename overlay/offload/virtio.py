"""The header that a TUN device with offload puts before each packet: ``struct virtio_net_hdr``.

::

    flags (1) | gso_type (1) | hdr_len (2) | gso_size (2) | csum_start (2) | csum_offset (2)

Numbers have the host's byte order. Source: Virtual I/O Device (VIRTIO) 1.2, section 5.1.6, and
Linux's ``virtio_net.h`` and ``if_tun.h``. The kernel writes these headers, so a wrong one is a
fault of the kernel, which is counted and costs one packet.
"""

from __future__ import annotations

import struct
from typing import Final

from overlay.offload.super_packets import (
    completed,
    cut,
    cut_datagrams,
    pseudo_header_sum,
    tcp_payload_at,
)

__all__ = ["HEADER_BYTES", "PLAIN_HEADER", "described", "received"]

_HEADER: Final = struct.Struct("=BBHHHH")
HEADER_BYTES: Final = _HEADER.size

PLAIN_HEADER: Final = bytes(HEADER_BYTES)
"""A packet that is complete as it is."""

_NEEDS_CHECKSUM: Final = 1
_NO_GSO: Final = 0
_TCP_IPV4: Final = 1
_TCP_IPV6: Final = 4
_UDP: Final = 5
_ECN: Final = 0x80
_CHECKSUM_AT: Final = 16
"""Offset of the checksum in a TCP header."""

_ATOMIC_FLAG: Final = 0x40
"""IPv4's "don't fragment", in the first byte of flags and fragment offset."""


def received(frame: memoryview, segment_bytes: int) -> list[bytes]:
    """Return the packets for which one frame of the device stands.

    A TCP super-packet stays whole if its segments are ``segment_bytes`` long and atomic, because
    then it can be cut later without further information. All others are cut here.

    Args:
        frame: header and packet as the device returned them.
        segment_bytes: size of a whole TCP segment, IP header included.

    Returns:
        Complete packets in order, or one super-packet. Empty if the header contradicts the packet.
    """
    if len(frame) <= HEADER_BYTES:
        return []
    flags, kind, _, size, start, at = _HEADER.unpack_from(frame)
    packet = bytes(frame[HEADER_BYTES:])
    kind &= ~_ECN
    if kind == _NO_GSO:
        if not flags & _NEEDS_CHECKSUM:
            return [packet]
        whole = completed(packet, start, at)
        return [] if whole is None else [whole]
    if kind == _UDP:
        return cut_datagrams(packet, size)
    payload_at = tcp_payload_at(packet) if kind in (_TCP_IPV4, _TCP_IPV6) else None
    if payload_at is None:
        return []
    is_atomic = packet[0] >> 4 == 6 or packet[6] & _ATOMIC_FLAG
    stays = payload_at + size == segment_bytes < len(packet) and is_atomic
    return [packet] if stays else cut(packet, size)


def described(packet: bytes, segment_bytes: int) -> tuple[bytes | memoryview, ...]:
    """Return the parts of the frame that hands a packet, or a super-packet, to the kernel.

    The kernel completes the checksums of a super-packet and cuts it where it leaves the host.
    """
    payload_at = tcp_payload_at(packet) if len(packet) > segment_bytes else None
    if payload_at is None or payload_at >= segment_bytes:
        return PLAIN_HEADER, packet
    is_ipv6 = packet[0] >> 4 == 6
    upper = 40 if is_ipv6 else (packet[0] & 0x0F) << 2
    header = _HEADER.pack(
        _NEEDS_CHECKSUM,
        _TCP_IPV6 if is_ipv6 else _TCP_IPV4,
        payload_at,
        segment_bytes - payload_at,
        upper,
        _CHECKSUM_AT,
    )
    field = upper + _CHECKSUM_AT
    view = memoryview(packet)
    partial = pseudo_header_sum(packet, len(packet) - upper).to_bytes(2, "big")
    return header, view[:field], partial, view[field + 2 :]
