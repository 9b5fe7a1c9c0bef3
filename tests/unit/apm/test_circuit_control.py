from __future__ import annotations

import pytest

from overlay.addresses import InnerAddress
from overlay.apm.control import (
    CONTROL_BYTES,
    MAX_PROBE_BYTES,
    CircuitPing,
    CircuitPong,
    Confirm,
    ControlMessage,
    Move,
    Refuse,
    RefuseReason,
    RekeyAnswer,
    RekeyOffer,
    RekeySwitch,
    RekeySwitched,
    SizeProbe,
    SizeProbed,
    Teardown,
    TeardownReason,
    encode_control,
    parse_control,
)
from overlay.apm.inner_addresses import InnerAddresses
from overlay.errors import Malformed
from overlay.ipsec.interface import Spi

TICKET = bytes(range(16))
V4 = InnerAddress(bytes((100, 64, 1, 2)))
V6 = InnerAddress(bytes.fromhex("fd770000000000000000000000000001"))
MESSAGES: list[ControlMessage] = [
    Confirm(InnerAddresses(ipv4=V4), TICKET),
    Confirm(InnerAddresses(ipv6=V6), TICKET),
    Confirm(InnerAddresses(V4, V6), TICKET),
    *[Refuse(reason) for reason in RefuseReason],
    Move(TICKET),
    CircuitPing(b"12345678"),
    CircuitPong(b"87654321"),
    *[Teardown(reason) for reason in TeardownReason],
    RekeyOffer(1, Spi(256), Spi(257), bytes(range(32))),
    RekeyAnswer(2**32 - 1, bytes(range(32)), bytes(range(16))),
    RekeySwitch(2, bytes(range(16))),
    RekeySwitched(3, bytes(range(16))),
    SizeProbe(b"12345678", is_proved=False, size=CONTROL_BYTES),
    SizeProbe(b"12345678", is_proved=True, size=CONTROL_BYTES),
    SizeProbed(b"87654321", size=CONTROL_BYTES),
]
PADDED: list[ControlMessage] = [
    SizeProbe(b"12345678", is_proved=True, size=MAX_PROBE_BYTES),
    SizeProbed(b"87654321", size=MAX_PROBE_BYTES - 1),
]


@pytest.mark.parametrize("message", MESSAGES, ids=repr)
def test_every_message_has_one_size_and_comes_back(message: ControlMessage) -> None:
    encoded = encode_control(message)
    assert len(encoded) == CONTROL_BYTES
    assert parse_control(encoded) == message


@pytest.mark.parametrize("message", MESSAGES, ids=repr)
def test_truncated_or_extended_message_is_malformed(message: ControlMessage) -> None:
    encoded = encode_control(message)
    longer = b"" if isinstance(message, SizeProbe | SizeProbed) else encoded + b"\0"
    for wrong in (b"", encoded[:-1], longer):
        with pytest.raises(Malformed):
            parse_control(wrong)


@pytest.mark.parametrize("message", MESSAGES, ids=repr)
def test_flipped_bit_gives_another_message_or_none_never_the_same(message: ControlMessage) -> None:
    encoded = encode_control(message)
    for bit in range(len(encoded) * 8):
        changed = bytearray(encoded)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            parsed = parse_control(bytes(changed))
        except Malformed:
            continue
        assert parsed != message
        assert encode_control(parsed) == bytes(changed)


@pytest.mark.parametrize("message", PADDED, ids=repr)
def test_a_size_probe_has_the_size_that_it_is_about(message: ControlMessage) -> None:
    encoded = encode_control(message)
    assert isinstance(message, SizeProbe | SizeProbed)
    assert len(encoded) == message.size
    assert parse_control(encoded) == message
    for wrong in (encoded[:-1] + b"\1", encoded.ljust(MAX_PROBE_BYTES + 1, b"\0")):
        with pytest.raises(Malformed):
            parse_control(wrong)


def test_a_size_probe_whose_flag_is_neither_0_nor_1_is_malformed() -> None:
    encoded = bytearray(encode_control(SizeProbe(bytes(8), is_proved=True, size=CONTROL_BYTES)))
    encoded[10] = 2
    with pytest.raises(Malformed):
        parse_control(bytes(encoded))


@pytest.mark.parametrize("kind", [0, 13, 255])
def test_unknown_kinds_are_malformed(kind: int) -> None:
    with pytest.raises(Malformed):
        parse_control(bytes((2, kind)).ljust(CONTROL_BYTES, b"\0"))


def test_generation_0_and_reserved_spis_are_malformed() -> None:
    message = RekeyOffer(1, Spi(256), Spi(2**32 - 1), bytes(32))
    encoded = encode_control(message)
    assert parse_control(encoded) == message
    for start, number in ((2, 0), (6, 0), (6, 255), (10, 0), (10, 255)):
        changed = encoded[:start] + number.to_bytes(4, "big") + encoded[start + 4 :]
        with pytest.raises(Malformed):
            parse_control(changed)


def test_unknown_version_is_malformed() -> None:
    with pytest.raises(Malformed):
        parse_control(bytes((1,)) + encode_control(CircuitPing(b"12345678"))[1:])
