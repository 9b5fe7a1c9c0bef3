"""Any bytes at all: the rules answer with packets or a count, and raise nothing."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop
from targets import TARGETS

from overlay.forwarding.checksum import internet_checksum

SYN = TCP(flags="S", options=[("MSS", 1460), ("Timestamp", (1, 2)), ("WScale", 7)])
CORPUS = [
    bytes(IP(src="100.64.0.7", dst="198.51.100.9") / SYN / b"data"),
    bytes(IPv6(src="fd00::7", dst="2001:db8::9") / SYN / b"data"),
    bytes(IPv6(dst="2001:db8::9") / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / SYN),
    bytes(IPv6(dst="2001:db8::9") / IPv6ExtHdrFragment(m=1) / SYN / bytes(4)),
]


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=120))
@example(b"")
@example(b"\x45")
@example(b"\x60")
def test_any_bytes(packet: bytes) -> None:
    TARGETS["inner_packet"](packet)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.sampled_from([4, 6]), st.integers(0, 255), st.binary(max_size=100), st.integers(0, 65535))
def test_any_upper_layer_behind_a_valid_header(
    version: int, protocol: int, rest: bytes, fragment: int
) -> None:
    if version == 6:
        head = b"\x60\x00\x00\x00" + len(rest).to_bytes(2, "big") + bytes((protocol, 64))
        return TARGETS["inner_packet"](head + bytes(15) + b"\x01" + bytes(15) + b"\x02" + rest)
    head = b"\x45\x00" + (20 + len(rest)).to_bytes(2, "big") + bytes(2)
    head += fragment.to_bytes(2, "big") + bytes((64, protocol))
    addresses = bytes((100, 64, 0, 7, 198, 51, 100, 9))
    checksum = internet_checksum(head + bytes(2) + addresses).to_bytes(2, "big")
    return TARGETS["inner_packet"](head + checksum + addresses + rest)


@pytest.mark.parametrize("packet", CORPUS)
def test_every_flipped_bit_and_every_length(packet: bytes) -> None:
    for bit in range(len(packet) * 8):
        damaged = bytearray(packet)
        damaged[bit // 8] ^= 0x80 >> bit % 8
        TARGETS["inner_packet"](bytes(damaged))
    for size in range(len(packet)):
        TARGETS["inner_packet"](packet[:size])
