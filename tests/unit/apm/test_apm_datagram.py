from __future__ import annotations

from dataclasses import replace

import pytest
from scapy.layers.inet6 import UDP, IPv6
from scapy.packet import Raw

from overlay.apm.datagram import UdpDatagram, build_datagram, parse_datagram
from overlay.errors import Malformed

DATAGRAM = UdpDatagram(
    bytes.fromhex("fd6d6978000000000000000000000001"),
    bytes.fromhex("fd63697200000000000000000000beef"),
    6978,
    6979,
    b"constant size",
)


def test_scapy_reads_what_we_build() -> None:
    packet = IPv6(build_datagram(DATAGRAM))
    assert (packet.src, packet.dst) == ("fd6d:6978::1", "fd63:6972::beef")
    assert (packet[UDP].sport, packet[UDP].dport) == (6978, 6979)
    assert bytes(packet[Raw]) == b"constant size"
    checksum = packet[UDP].chksum
    del packet[UDP].chksum
    assert IPv6(bytes(packet))[UDP].chksum == checksum


@pytest.mark.parametrize("payload", [b"", b"x", b"xy", bytes(1072), b"\xff" * 1071])
def test_datagram_round_trip(payload: bytes) -> None:
    datagram = replace(DATAGRAM, payload=payload)
    assert parse_datagram(build_datagram(datagram)) == datagram


def test_sum_of_zero_is_sent_as_all_ones() -> None:
    base = build_datagram(replace(DATAGRAM, payload=bytes(2)))
    fitting = replace(DATAGRAM, payload=base[46:48])
    packet = build_datagram(fitting)
    assert packet[46:48] == b"\xff\xff"
    assert parse_datagram(packet) == fitting


def test_truncated_and_extended_packets_are_malformed() -> None:
    packet = build_datagram(DATAGRAM)
    for wrong in [packet[:size] for size in range(len(packet))] + [packet + b"\0"]:
        with pytest.raises(Malformed):
            parse_datagram(wrong)


def test_any_changed_bit_of_addresses_ports_lengths_or_payload_is_malformed() -> None:
    packet = build_datagram(DATAGRAM)
    covered = [*range(4), *range(32, 56), *range(64, len(packet) * 8)]
    assert len(covered) > 400
    for bit in covered:
        changed = bytearray(packet)
        changed[bit // 8] ^= 0x80 >> bit % 8
        with pytest.raises(Malformed):
            parse_datagram(bytes(changed))
