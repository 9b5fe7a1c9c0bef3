"""Read pcap files of :class:`~lab.capture.Capture` or tcpdump into one record for each packet.

::

    file header: magic (4) | version (2+2) | zone (4) | sigfigs (4) | snaplen (4) | link type (4)
    each record: seconds (4) | fraction (4) | captured bytes (4) | bytes on the wire (4) | frame

It understands IPv4, IPv6 (with extension headers) and ARP, over Ethernet, raw IP (TUN) and Linux's
"any" device (SLL, SLL2). Other frames are omitted. Format: draft-ietf-opsawg-pcap.
"""

from __future__ import annotations

import functools
import ipaddress
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from lab.namespaces import LabError

__all__ = ["ARP", "ESP", "ICMP", "ICMPV6", "TCP", "UDP", "Packet", "read_packets"]

ICMP: Final = 1
TCP: Final = 6
UDP: Final = 17
ESP: Final = 50
ICMPV6: Final = 58
ARP: Final = 0x0806
"""Value of :attr:`Packet.protocol` for ARP, which has no IP protocol number."""

_IPV4: Final = 0x0800
_IPV6: Final = 0x86DD
_LINK_ETHERNET: Final = 1
_LINK_RAW: Final = 101
_LINK_SLL: Final = 113
_LINK_SLL2: Final = 276
_ETHER_TYPE_AT: Final = {_LINK_ETHERNET: (12, 14), _LINK_SLL: (14, 16), _LINK_SLL2: (0, 20)}
"""Link type -> (offset of the protocol field, size of the link header)."""

_BYTE_ORDER_AND_FRACTION: Final = {
    b"\xd4\xc3\xb2\xa1": ("<", 1e-6),
    b"\xa1\xb2\xc3\xd4": (">", 1e-6),
    b"\x4d\x3c\xb2\xa1": ("<", 1e-9),
    b"\xa1\xb2\x3c\x4d": (">", 1e-9),
}
_WITH_PORTS: Final = frozenset((TCP, UDP, 132))
_SKIPPED_EXTENSIONS: Final = frozenset((0, 43, 60))
"""Hop-by-hop options, routing, destination options (RFC 8200, section 4)."""
_FRAGMENT: Final = 44


class Packet(NamedTuple):
    """One captured packet.

    ``length`` is the size of the whole IP packet in bytes on the wire, even if the capture kept
    less. ``payload`` is the captured part after the TCP, UDP or IP header. Ports are 0 for other
    protocols, and for all fragments except the first.
    """

    timestamp: float
    version: int
    source: str
    destination: str
    protocol: int
    source_port: int
    destination_port: int
    length: int
    payload: bytes


class _Body(NamedTuple):
    """The part of a packet after its IP headers."""

    protocol: int
    offset: int
    first_fragment: bool


def read_packets(path: Path) -> Iterator[Packet]:
    """Yield the packets of a pcap file in order; an incomplete record at its end is omitted.

    Raises:
        LabError: the file is no pcap file, or this reader does not know its link type.
    """
    with path.open("rb") as file:
        header = file.read(24)
        if len(header) < 24 or header[:4] not in _BYTE_ORDER_AND_FRACTION:
            raise LabError(f"{path} is no pcap file.")
        order, fraction = _BYTE_ORDER_AND_FRACTION[header[:4]]
        link_type = struct.unpack_from(order + "I", header, 20)[0] & 0x0FFFFFFF
        if link_type != _LINK_RAW and link_type not in _ETHER_TYPE_AT:
            raise LabError(f"{path} has link type {link_type}, which this reader does not know.")
        record = struct.Struct(order + "IIII")
        while len(head := file.read(16)) == 16:
            seconds, fractions, captured, _ = record.unpack(head)
            frame = file.read(captured)
            if len(frame) < captured:
                return
            packet = _parse_frame(frame, link_type, seconds + fractions * fraction)
            if packet is not None:
                yield packet


def _parse_frame(frame: bytes, link_type: int, timestamp: float) -> Packet | None:
    try:
        if link_type == _LINK_RAW:
            return _parse_ip(frame, timestamp)
        type_offset, header_bytes = _ETHER_TYPE_AT[link_type]
        ether_type = int.from_bytes(frame[type_offset : type_offset + 2], "big")
        if ether_type == ARP:
            return _parse_arp(frame[header_bytes:], timestamp)
        if ether_type in (_IPV4, _IPV6):
            return _parse_ip(frame[header_bytes:], timestamp)
    except (struct.error, IndexError):
        return None  # cut off inside a header
    return None


def _parse_arp(data: bytes, timestamp: float) -> Packet | None:
    """Parse ARP for IPv4 over Ethernet (RFC 826): sender at 14, target at 24."""
    if len(data) < 28:
        return None
    sender, target = _text(data[14:18]), _text(data[24:28])
    return Packet(timestamp, 4, sender, target, ARP, 0, 0, len(data), b"")


def _parse_ip(data: bytes, timestamp: float) -> Packet | None:
    version = data[0] >> 4
    if version == 4 and len(data) >= 20:
        length = int.from_bytes(data[2:4], "big") or len(data)
        body = _Body(data[9], (data[0] & 15) * 4, not int.from_bytes(data[6:8], "big") & 0x1FFF)
        source, destination = data[12:16], data[16:20]
    elif version == 6 and len(data) >= 40:
        length = 40 + int.from_bytes(data[4:6], "big")
        body = _after_extensions(data)
        source, destination = data[8:24], data[24:40]
    else:
        return None
    source_port, destination_port, payload_at = _ports(data, body)
    return Packet(
        timestamp,
        version,
        _text(source),
        _text(destination),
        body.protocol,
        source_port,
        destination_port,
        length,
        data[payload_at:length],
    )


def _after_extensions(data: bytes) -> _Body:
    protocol, offset, first = data[6], 40, True
    while protocol in _SKIPPED_EXTENSIONS or protocol == _FRAGMENT:
        if protocol == _FRAGMENT:
            first = not int.from_bytes(data[offset + 2 : offset + 4], "big") >> 3
            size = 8
        else:
            size = data[offset + 1] * 8 + 8
        protocol, offset = data[offset], offset + size
    return _Body(protocol, offset, first)


def _ports(data: bytes, body: _Body) -> tuple[int, int, int]:
    """Return source port, destination port and the offset of the payload."""
    if body.protocol not in _WITH_PORTS or not body.first_fragment:
        return 0, 0, body.offset
    source, destination = struct.unpack_from(">HH", data, body.offset)
    if body.protocol == TCP:
        return source, destination, body.offset + (data[body.offset + 12] >> 4) * 4
    return source, destination, body.offset + (8 if body.protocol == UDP else 12)


@functools.lru_cache(maxsize=4096)
def _text(packed: bytes) -> str:
    return str(ipaddress.ip_address(packed))
