"""Any bytes give a packet or a counted drop; nothing is ever raised."""

import struct
from random import Random

import pytest
from esp_host import CIRCUIT, OWN, PEER, association, esp_host
from hypothesis import given
from hypothesis import strategies as st

from overlay.ipsec.esp import InboundSa
from overlay.ipsec.headers import packet_length
from overlay.ipsec.interface import (
    Drop,
)
from overlay.ipsec.suites import SUITES
from overlay.ipsec.transforms import new_transform
from overlay.ipsec.userspace.engine import Processed, UserspaceEngine

NOW = 1.0


def count(made: UserspaceEngine) -> int:
    return sum(made.drops().values())


def kept(result: Processed) -> int:
    lists = (result.to_network, result.to_control, result.to_host, result.to_exit)
    return sum(len(packets) for packets in lists)


@given(st.lists(st.binary(max_size=120), max_size=5), st.booleans())
def test_any_datagram_is_a_counted_drop(datagrams, right_spi):
    made = esp_host()
    prefix = struct.pack(">I", 0x700) if right_spi else b""
    result = made.process_inbound([(prefix + data, PEER) for data in datagrams], NOW)
    assert count(made) == len(datagrams)
    assert kept(result) == 0


@given(st.lists(st.binary(max_size=120), max_size=5))
def test_any_outbound_bytes_are_sealed_or_counted(packets):
    made = esp_host()
    result = made.process_outbound(packets, NOW)
    assert count(made) + kept(result) == len(packets)


headers = st.sampled_from(
    [
        b"\x60\x00\x00\x00\x00\x20\x32\x40" + CIRCUIT + OWN + b"\x00\x00\x08\x00",
        b"\x60\x00\x00\x00\x00\x20\x32\x40" + OWN + CIRCUIT,
        b"\x60\x00\x00\x00\x00\x08\x11\x40" + CIRCUIT + OWN,
        b"\x45\x00\x00\x30\x00\x00\x00\x00\x40\x32\x00\x00" + bytes(8),
        b"\x4f\x00\x00\x40\x00\x00\x20\x00\x40\x32\x00\x00" + bytes(8),
        b"",
    ]
)


@given(headers, st.binary(max_size=80), st.sampled_from([4, 41, 59, 50, 0]))
def test_whatever_a_neighbour_with_the_link_keys_seals_is_kept_or_counted(header, rest, number):
    made = esp_host()
    plaintext = header + rest
    pad = -(len(plaintext) + 2) % 4
    plaintext += bytes(range(1, pad + 1)) + bytes((pad, number))
    sa = association(0x700, 3, inbound=True, link=True)
    transform = new_transform(SUITES[3], sa.keymat.reveal(), sa.spi, Random(1), esn=True)
    result = made.process_inbound([(transform.seal(1, plaintext), PEER)], NOW)
    assert kept(result) + count(made) == 1


@pytest.mark.parametrize("suite", [3, 4, 5, 8, 11])
@given(st.binary(max_size=100))
def test_any_plaintext_of_a_peer_with_the_keys_opens_or_drops(suite, body):
    info = SUITES[suite]
    plaintext = body[: len(body) // info.alignment * info.alignment] or bytes(info.alignment)
    sa = association(0x700, suite, inbound=True, link=True)
    transform = new_transform(info, sa.keymat.reveal(), sa.spi, Random(1), esn=True)
    opened = InboundSa(sa, Random(1), lambda _: None).open(transform.seal(1, plaintext), 0, NOW)
    assert isinstance(opened, Drop) or packet_length(opened, len(opened)) == len(opened)


@pytest.mark.slow
@given(st.binary(max_size=70), st.integers(0, 70))
def test_packet_length_never_exceeds_its_bound(data, end):
    length = packet_length(data, min(end, len(data)))
    assert 0 <= length <= min(end, len(data))
