"""Frames of a TUN device with offload."""

import struct

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6

from overlay.offload.virtio import HEADER_BYTES, PLAIN_HEADER, described, received

SEGMENT = 1038
NEEDS_CHECKSUM, TCP4, UDP_SEGMENTS, TCP6, UFO = 1, 1, 5, 4, 3


def ip(version, **fields):
    if version == 4:
        return IP(src="192.0.2.1", dst="198.51.100.9", flags="DF", **fields)
    return IPv6(src="2001:db8::1", dst="2001:db8::9")


def frame(packet, *, flags=0, kind=0, size=0, start=0, at=0):
    return memoryview(struct.pack("=BBHHHH", flags, kind, 0, size, start, at) + packet)


def with_zero_sum(version, packet, at):
    upper = 20 if version == 4 else 40
    return packet[: upper + at] + b"\0\0" + packet[upper + at + 2 :]


def pseudo_sum(version, packet, protocol):
    """The sum that the kernel leaves in a checksum field (CHECKSUM_PARTIAL)."""
    addresses = packet[12:20] if version == 4 else packet[8:40]
    length = len(packet) - (20 if version == 4 else 40)
    words = addresses + struct.pack("!HH", protocol, length)
    return sum(struct.unpack(f"!{len(words) // 2}H", words)) % 0xFFFF


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("payload", [b"", b"odd", b"even"])
@pytest.mark.parametrize(("layer", "at"), [(TCP(dport=80), 16), (UDP(dport=53), 6)])
def test_a_checksum_that_the_kernel_left_out_is_completed(version, payload, layer, at):
    whole = bytes(ip(version) / layer / payload)
    upper = 20 if version == 4 else 40
    partial = pseudo_sum(version, whole, 6 if layer.name == "TCP" else 17)
    left = whole[: upper + at] + partial.to_bytes(2, "big") + whole[upper + at + 2 :]
    given = frame(left, flags=NEEDS_CHECKSUM, start=upper, at=at)
    assert received(given, SEGMENT) == [whole]


@pytest.mark.parametrize("version", [4, 6])
def test_a_super_packet_of_whole_segments_stays_whole_and_others_are_cut(version):
    header = len(bytes(ip(version) / TCP()))
    packet = bytes(ip(version) / TCP(flags="A") / bytes(5000))
    kind = TCP4 if version == 4 else TCP6
    given = {"flags": NEEDS_CHECKSUM, "kind": kind, "start": header - 20, "at": 16}
    assert received(frame(packet, size=SEGMENT - header, **given), SEGMENT) == [packet]
    cut = received(frame(packet, size=500, **given), SEGMENT)
    assert [len(each) for each in cut] == [header + 500] * 10


def test_a_super_packet_that_may_be_fragmented_is_cut_so_that_each_segment_is_identified():
    packet = bytes(IP(src="192.0.2.1", dst="198.51.100.9", id=7) / TCP(flags="A") / bytes(3000))
    given = frame(packet, flags=NEEDS_CHECKSUM, kind=TCP4, size=SEGMENT - 40, start=20, at=16)
    assert [IP(each).id for each in received(given, SEGMENT)] == [7, 8, 9, 10]


def test_large_udp_is_cut_into_its_datagrams():
    packet = bytes(ip(4) / UDP(sport=1, dport=2) / bytes(2500))
    found = received(frame(packet, flags=NEEDS_CHECKSUM, kind=UDP_SEGMENTS, size=1200), SEGMENT)
    assert [IP(each)[UDP].len for each in found] == [1208, 1208, 108]


@pytest.mark.parametrize(
    "bad",
    [
        memoryview(b""),
        memoryview(bytes(HEADER_BYTES)),
        frame(bytes(ip(4) / UDP()), flags=NEEDS_CHECKSUM, start=60_000, at=6),
        frame(bytes(ip(4) / UDP() / bytes(3000)), kind=TCP4, size=998),
        frame(bytes(ip(4) / TCP(flags="S") / bytes(3000)), kind=TCP4, size=998),
        frame(bytes(ip(4) / TCP(flags="A") / bytes(3000)), kind=TCP4, size=0),
        frame(bytes(ip(4) / UDP() / bytes(3000)), kind=UFO, size=998),
        frame(b"\x45" + bytes(30), kind=TCP6, size=998),
    ],
)
def test_a_header_that_contradicts_its_packet_gives_no_packet(bad):
    assert received(bad, SEGMENT) == []


@pytest.mark.parametrize("version", [4, 6])
def test_a_super_packet_is_handed_over_as_the_kernel_needs_it(version):
    packet = bytes(ip(version) / TCP(flags="PA") / bytes(5000))
    upper = 20 if version == 4 else 40
    packet = with_zero_sum(version, packet, 16)
    header, *parts = described(packet, SEGMENT)
    kind = TCP4 if version == 4 else TCP6
    size = SEGMENT - upper - 20
    assert struct.unpack("=BBHHHH", header) == (NEEDS_CHECKSUM, kind, upper + 20, size, upper, 16)
    written = b"".join(parts)
    assert with_zero_sum(version, written, 16) == packet
    assert int.from_bytes(written[upper + 16 : upper + 18], "big") == pseudo_sum(version, packet, 6)


@pytest.mark.parametrize(
    "packet",
    [
        ip(4) / TCP(flags="A") / bytes(998),
        ip(4) / UDP() / bytes(1260),
        ip(4) / TCP(flags="S") / bytes(1200),
        IP(src="192.0.2.1", dst="198.51.100.9", flags="MF") / TCP(flags="A") / bytes(1200),
    ],
)
def test_any_other_packet_is_handed_over_as_it_is(packet):
    assert described(bytes(packet), SEGMENT) == (PLAIN_HEADER, bytes(packet))
