from __future__ import annotations

import pytest

from overlay.addresses import InnerAddress
from overlay.apm.control import (
    CONTROL_BYTES,
    Confirm,
    ControlMessage,
    Ping,
    Pong,
    Refuse,
    RefuseReason,
    Teardown,
    TeardownReason,
    encode_control,
    parse_control,
)
from overlay.apm.inner_addresses import InnerAddresses
from overlay.errors import Malformed

V4 = InnerAddress(bytes((100, 64, 1, 2)))
V6 = InnerAddress(bytes.fromhex("fd770000000000000000000000000001"))
MESSAGES: list[ControlMessage] = [
    Confirm(InnerAddresses(ipv4=V4)),
    Confirm(InnerAddresses(ipv6=V6)),
    Confirm(InnerAddresses(V4, V6)),
    *[Refuse(reason) for reason in RefuseReason],
    Ping(b"12345678"),
    Pong(b"87654321"),
    *[Teardown(reason) for reason in TeardownReason],
]


@pytest.mark.parametrize("message", MESSAGES, ids=repr)
def test_every_message_has_one_size_and_comes_back(message: ControlMessage) -> None:
    encoded = encode_control(message)
    assert len(encoded) == CONTROL_BYTES
    assert parse_control(encoded) == message


@pytest.mark.parametrize("message", MESSAGES, ids=repr)
def test_truncated_or_extended_message_is_malformed(message: ControlMessage) -> None:
    encoded = encode_control(message)
    for wrong in (b"", encoded[:-1], encoded + b"\0"):
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


@pytest.mark.parametrize("kind", [0, 6, 7, 8, 255])
def test_unknown_and_reserved_kinds_are_malformed(kind: int) -> None:
    with pytest.raises(Malformed):
        parse_control(bytes((1, kind)).ljust(CONTROL_BYTES, b"\0"))


def test_unknown_version_is_malformed() -> None:
    with pytest.raises(Malformed):
        parse_control(bytes((2,)) + encode_control(Ping(b"12345678"))[1:])
