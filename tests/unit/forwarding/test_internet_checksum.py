"""The Internet checksum against RFC 1071's worked example and against scapy."""

from __future__ import annotations

import random
import struct

import pytest
from scapy.utils import checksum as scapy_checksum

from overlay.forwarding.checksum import has_valid_sum, internet_checksum, updated_checksum


def test_rfc_1071_section_3_example() -> None:
    # The eight bytes sum up to 0xddf2 after the carries are folded in.
    assert internet_checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF - 0xDDF2


@pytest.mark.parametrize(
    ("data", "expected"), [(b"", 0xFFFF), (bytes(4), 0xFFFF), (b"\xff\xff", 0)]
)
def test_the_two_zeros_of_ones_complement(data: bytes, expected: int) -> None:
    assert internet_checksum(data) == expected


def test_rfc_1624_section_4_example_that_breaks_the_older_equation() -> None:
    assert updated_checksum(0xDD2F, b"\x55\x55", b"\x32\x85") == 0x0000


def test_checksum_agrees_with_scapy_for_every_length() -> None:
    rng = random.Random(1)
    for size in range(1, 130):
        data = rng.randbytes(size)
        assert internet_checksum(data) == scapy_checksum(data)


def test_an_update_equals_a_recomputation() -> None:
    rng = random.Random(2)
    for _ in range(300):
        old, new, rest = rng.randbytes(6), rng.randbytes(6), rng.randbytes(20)
        before = internet_checksum(old + rest)
        assert updated_checksum(before, old, new) == internet_checksum(new + rest)


def test_a_header_with_its_checksum_sums_up_to_ones() -> None:
    header = bytearray(random.Random(3).randbytes(20))
    header[10:12] = bytes(2)
    header[10:12] = struct.pack("!H", internet_checksum(bytes(header)))
    assert has_valid_sum(bytes(header))
    header[0] ^= 1
    assert not has_valid_sum(bytes(header))
    assert not has_valid_sum(bytes(20))
