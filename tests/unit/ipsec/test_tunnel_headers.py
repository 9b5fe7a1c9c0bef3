from random import Random

import pytest
from ipsec_circuits import BOB_V4, BOB_V6, INNER_V4, INNER_V6, ipv4, ipv6

from overlay.ipsec.headers import is_ipv4_fragment, new_outer_header, packet_length

V4, V6 = ipv4(INNER_V4, BOB_V4, b"four"), ipv6(INNER_V6, BOB_V6, b"six")


@pytest.mark.parametrize("packet", [V4, V6])
def test_length_of_a_packet_is_what_its_header_says(packet):
    assert packet_length(packet, len(packet)) == len(packet)
    assert packet_length(packet + b"padding", len(packet) + 7) == len(packet)


@pytest.mark.parametrize("packet", [V4, V6])
def test_no_length_reaches_beyond_the_end(packet):
    assert [packet_length(packet, end) for end in range(len(packet))] == [0] * len(packet)


@pytest.mark.parametrize("version", [v for v in range(16) if v not in (4, 6)])
def test_other_versions_are_no_packets(version):
    assert packet_length(bytes((version << 4 | 5,)) + V4[1:], len(V4)) == 0


@pytest.mark.parametrize(("ihl", "total"), [(4, 24), (0, 24), (6, 23), (15, 24), (5, 19)])
def test_an_ipv4_header_that_contradicts_itself_is_no_packet(ihl, total):
    packet = bytes((0x40 | ihl, 0)) + total.to_bytes(2, "big") + V4[4:]
    assert packet_length(packet, len(packet)) == 0


@pytest.mark.parametrize(
    ("flags", "fragment"), [(0x0000, False), (0x4000, False), (0x2000, True), (0x0001, True)]
)
def test_a_fragment_has_more_to_come_or_an_offset(flags, fragment):
    assert is_ipv4_fragment(V4[:6] + flags.to_bytes(2, "big") + V4[8:]) is fragment


def test_outer_ipv6_header_is_constant_but_for_length_and_addresses():
    wrapped = new_outer_header(INNER_V6, BOB_V6, Random(1)).wrap(b"e" * 300)
    assert wrapped[:8] == bytes((0x60, 0, 0, 0, 1, 44, 50, 64))
    assert wrapped[8:40] == INNER_V6 + BOB_V6


def test_outer_ipv4_header_has_df_clear_and_a_right_checksum():
    for seed in range(50):
        wrapped = new_outer_header(INNER_V4, BOB_V4, Random(seed)).wrap(b"e" * 300)
        total = sum(int.from_bytes(wrapped[i : i + 2], "big") for i in range(0, 20, 2))
        assert total % 0xFFFF == 0
        assert wrapped[6:10] == bytes((0, 0, 64, 50))
        assert packet_length(wrapped, len(wrapped)) == 320


def test_outer_ipv4_identification_is_drawn():
    header = new_outer_header(INNER_V4, BOB_V4, Random(1))
    assert len({header.wrap(b"")[4:6] for _ in range(20)}) == 20
