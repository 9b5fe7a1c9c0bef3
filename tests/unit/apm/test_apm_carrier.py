from __future__ import annotations

import math
from random import Random

import pytest

from overlay.addresses import OverlayAddress
from overlay.apm.carrier import (
    MAX_FRAGMENT_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_OUTGOING_PER_PEER,
    MAX_PARTIAL_PER_PEER,
    OnionCarrier,
)
from overlay.apm.settings import ApmSettings
from overlay.errors import LimitReached, Malformed

ALICE = OverlayAddress(bytes.fromhex("fd6d6978") + b"alice.......")
MIX1 = OverlayAddress(bytes.fromhex("fd6d6978") + b"mix1........")
BIG = Random(0).randbytes(6482)
SMALL = BIG[:1042]


def make(seed: int = 1) -> OnionCarrier:
    return OnionCarrier(ApmSettings(), Random(seed))


def payloads(carrier: OnionCarrier) -> list[bytes]:
    return [payload for _, payload in carrier.payloads_to_send()]


def hand_over(
    sender: OnionCarrier, receiver: OnionCarrier, now: float, order: int = 1
) -> list[bytes]:
    """Carry everything under way from one to the other, and the answers back."""
    messages = []
    for payload in payloads(sender)[::order]:
        message = receiver.receive(ALICE, payload, now)
        if message is not None:
            messages.append(message)
    for payload in payloads(receiver):
        assert sender.receive(MIX1, payload, now) is None
    return messages


@pytest.mark.parametrize("message", [b"x", SMALL, BIG, BIG[:1072], BIG[:1073], bytes(17152)])
@pytest.mark.parametrize("order", [1, -1])
def test_message_arrives_whole_whatever_its_size_and_order(message: bytes, order: int) -> None:
    sender, receiver = make(), make(2)
    sender.send(MIX1, message, 7, 0.0)
    assert hand_over(sender, receiver, 0.0, order) == [message]
    assert sender.next_deadline() == math.inf
    assert sender.failures() == []


def test_no_payload_is_larger_than_its_bound() -> None:
    sender = make()
    sender.send(MIX1, bytes(MAX_MESSAGE_BYTES), 7, 0.0)
    assert max(map(len, payloads(sender))) == MAX_FRAGMENT_BYTES + 12


def test_unacknowledged_message_is_repeated_with_growing_pauses_then_fails() -> None:
    sender = make()
    sender.send(MIX1, SMALL, 7, 0.0)
    first = payloads(sender)
    sent_at = []
    for _ in range(4):
        now = sender.next_deadline()
        sender.handle_deadline(now)
        assert payloads(sender) == first
        assert sender.next_deadline() > now
        sent_at.append(now)
    assert sent_at == [0.5, 1.5, 3.5, 7.5]
    sender.handle_deadline(15.5)
    assert sender.failures() == [7]
    assert payloads(sender) == []
    assert sender.next_deadline() == math.inf


def test_only_missing_fragments_are_repeated() -> None:
    sender, receiver = make(), make(2)
    sender.send(MIX1, BIG, 7, 0.0)
    sent = payloads(sender)
    assert len(sent) == 7
    for payload in sent[:3] + sent[4:]:
        assert receiver.receive(ALICE, payload, 0.0) is None
    for answer in payloads(receiver):
        sender.receive(MIX1, answer, 0.0)
    sender.handle_deadline(0.5)
    assert hand_over(sender, receiver, 0.5) == [BIG]
    assert sender.next_deadline() == math.inf


def test_repeated_message_is_acknowledged_again_and_delivered_once() -> None:
    sender, receiver = make(), make(2)
    sender.send(MIX1, BIG, 7, 0.0)
    sent = payloads(sender)
    delivered = [receiver.receive(ALICE, payload, 0.0) for payload in sent + sent]
    assert delivered.count(BIG) == 1
    assert delivered.count(None) == 13
    answers = payloads(receiver)
    assert len(answers) == 14
    # Any later answer alone tells that all has arrived.
    sender.receive(MIX1, answers[-1], 0.0)
    assert sender.next_deadline() == math.inf


def test_message_is_known_as_delivered_longer_than_any_sender_repeats_it() -> None:
    sender, receiver = make(), make(2)
    sender.send(MIX1, SMALL, 7, 0.0)
    [payload] = payloads(sender)
    assert receiver.receive(ALICE, payload, 0.0) == SMALL
    receiver.handle_deadline(59.0)
    assert receiver.receive(ALICE, payload, 59.0) is None
    receiver.handle_deadline(60.0)
    assert receiver.next_deadline() == math.inf


def test_half_a_message_is_forgotten() -> None:
    sender, receiver = make(), make(2)
    sender.send(MIX1, BIG, 7, 0.0)
    receiver.receive(ALICE, payloads(sender)[0], 0.0)
    assert receiver.next_deadline() == 20.0
    receiver.handle_deadline(20.0)
    assert receiver.next_deadline() == math.inf
    assert receiver.load() == (0, 0, 0)
    for seed in range(MAX_PARTIAL_PER_PEER):
        other = make(seed + 10)
        other.send(MIX1, BIG, 7, 20.0)
        receiver.receive(ALICE, payloads(other)[0], 20.0)
    assert receiver.load(ALICE) == (0, MAX_PARTIAL_PER_PEER, 0), "the whole share is free again"


def test_neighbour_cannot_make_us_hold_more_than_eight_partial_messages() -> None:
    receiver = make(2)
    other = OverlayAddress(bytes.fromhex("fd6d6978") + b"mallory.....")
    for seed in range(8):
        sender = make(seed + 10)
        sender.send(MIX1, BIG, 7, 0.0)
        receiver.receive(ALICE, payloads(sender)[0], 0.0)
    sender = make(99)
    sender.send(MIX1, BIG, 7, 0.0)
    payload = payloads(sender)[0]
    with pytest.raises(LimitReached):
        receiver.receive(ALICE, payload, 0.0)
    assert receiver.receive(other, payload, 0.0) is None
    receiver.handle_deadline(20.0)
    assert receiver.receive(ALICE, payload, 20.0) is None


def test_neighbour_cannot_make_us_remember_more_than_4096_messages() -> None:
    receiver = make(2)
    for number in range(4096):
        payload = b"\x01" + number.to_bytes(8, "big") + b"\x00\x01\x00x"
        assert receiver.receive(ALICE, payload, 0.0) == b"x"
    payload = b"\x01" + bytes([255] * 8) + b"\x00\x01\x00x"
    with pytest.raises(LimitReached):
        receiver.receive(ALICE, payload, 1.0)
    receiver.handle_deadline(60.0)
    assert receiver.receive(ALICE, payload, 60.0) == b"x"


def test_sender_has_bounds_per_neighbour_and_in_total() -> None:
    sender = make()
    for circuit in range(64):
        sender.send(MIX1, b"x", circuit, 0.0)
    with pytest.raises(LimitReached):
        sender.send(MIX1, b"x", 64, 0.0)
    for neighbour in range(31):
        peer = OverlayAddress(bytes.fromhex("fd6d6978") + bytes([neighbour] * 12))
        for circuit in range(64):
            sender.send(peer, b"x", circuit, 0.0)
    with pytest.raises(LimitReached):
        sender.send(ALICE, b"x", 1, 0.0)


def test_unfinished_messages_of_many_neighbours_keep_no_short_message_out() -> None:
    receiver = make()
    for neighbour in range(16):
        peer = OverlayAddress(bytes.fromhex("fd6d6978") + bytes([neighbour] * 12))
        for number in range(8):
            start = b"\x01" + bytes([number] * 8) + b"\x08\x00\x00" + bytes(1072)
            assert receiver.receive(peer, start, 0.0) is None
    with pytest.raises(LimitReached):
        receiver.receive(ALICE, b"\x01" + bytes(8) + b"\x08\x00\x00" + bytes(1072), 0.0)
    assert receiver.receive(ALICE, b"\x01" + bytes(8) + b"\x00\x01\x00x", 0.0) == b"x"


def test_lost_link_fails_what_was_under_way_and_forgets_the_rest() -> None:
    sender = make()
    sender.send(MIX1, b"x", 7, 0.0)
    sender.send(ALICE, b"y", 8, 0.0)
    sender.receive(MIX1, b"\x01" + bytes(8) + b"\x00\x01\x00x", 0.0)
    sender.link_lost(MIX1)
    assert sender.failures() == [7]
    assert sender.load(ALICE) == sender.load() == (1, 0, 0)
    for number in range(MAX_OUTGOING_PER_PEER):
        sender.send(MIX1, b"x", number, 0.0)


@pytest.mark.parametrize("size", [0, MAX_MESSAGE_BYTES + 1])
def test_message_of_impossible_size_is_a_local_error(size: int) -> None:
    with pytest.raises(ValueError, match="bytes"):
        make().send(MIX1, bytes(size), 1, 0.0)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x01" + bytes(8),
        b"\x03" + bytes(8) + b"\x00\x01\x00x",
        b"\x01" + bytes(8) + b"\x00\x00\x00",
        b"\x01" + bytes(8) + b"\x00\x02\x00x",
        b"\x01" + bytes(8) + b"\x00\x01\x01x",
        b"\x01" + bytes(8) + b"\xff\xff\x00" + bytes(1072),
        b"\x01" + bytes(8) + b"\x00\x01\x00xy",
        b"\x02" + bytes(8) + b"\x00",
        b"\x02" + bytes(8) + b"\x00\x01\x00",
    ],
)
def test_payload_that_fits_no_message_is_malformed(payload: bytes) -> None:
    with pytest.raises(Malformed):
        make().receive(ALICE, payload, 0.0)


def test_fragments_that_disagree_about_the_length_are_malformed() -> None:
    receiver = make()
    receiver.receive(ALICE, b"\x01" + bytes(8) + b"\x08\x00\x00" + bytes(1072), 0.0)
    with pytest.raises(Malformed):
        receiver.receive(ALICE, b"\x01" + bytes(8) + b"\x08\x01\x01" + bytes(977), 0.0)


def test_answer_to_nothing_is_ignored() -> None:
    assert make().receive(ALICE, b"\x02" + bytes(8) + b"\xff\xff", 0.0) is None
