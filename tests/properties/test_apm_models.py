"""Carrier, timers and SPIs against hardship and against stupid models."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.addresses import OverlayAddress
from overlay.apm.carrier import MAX_OUTGOING_PER_PEER, OnionCarrier
from overlay.apm.settings import ApmSettings
from overlay.apm.spi import SpiAllocator
from overlay.apm.timers import Timers
from overlay.ipsec.interface import Spi

LEFT = OverlayAddress(bytes.fromhex("fd6d6978") + bytes(12))
RIGHT = OverlayAddress(bytes.fromhex("fd6d6978") + bytes([1] * 12))


@given(
    st.lists(st.integers(1, 7000), min_size=1, max_size=4),
    st.integers(0, 2**32),
    st.floats(0.0, 0.4),
)
@settings(deadline=None, max_examples=60)
def test_messages_arrive_at_most_once_and_unharmed_through_loss_copies_and_disorder(
    sizes: list[int], seed: int, loss: float
) -> None:
    chance = Random(seed)
    sender = OnionCarrier(ApmSettings(carrier_attempts=12), Random(seed + 1))
    receiver = OnionCarrier(ApmSettings(), Random(seed + 2))
    messages = [bytes([i]) + Random(seed + i).randbytes(size - 1) for i, size in enumerate(sizes)]
    for number, message in enumerate(messages):
        sender.send(RIGHT, message, number, 0.0)
    received: list[bytes] = []
    now = 0.0
    while now < math.inf:
        wave = [p for _, p in sender.payloads_to_send() for _ in range(chance.choice([1, 2]))]
        chance.shuffle(wave)
        for payload in wave:
            if chance.random() >= loss:
                message = receiver.receive(LEFT, payload, now)
                received += [] if message is None else [message]
        for _, answer in receiver.payloads_to_send():
            if chance.random() >= loss:
                sender.receive(RIGHT, answer, now)
        now = sender.next_deadline()
        if now < math.inf:
            sender.handle_deadline(now)
            # Below the age at which half a message is forgotten: pauses grow beyond it.
            now = min(now, 19.0)
    failed = sender.failures()
    assert len(received) == len(set(received))
    assert set(received) <= set(messages)
    assert {messages[i] for i in range(len(messages)) if i not in failed} <= set(received)
    assert sender.load().outgoing == 0
    for number in range(MAX_OUTGOING_PER_PEER):
        sender.send(RIGHT, b"the whole share is free again", number, now)


@pytest.mark.slow
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["set", "cancel", "pop"]), st.integers(0, 5), st.floats(0.0, 100.0)
        ),
        max_size=120,
    )
)
def test_timers_equal_a_sorted_dictionary(
    steps: list[tuple[str, int, float]],
) -> None:
    timers: Timers[int] = Timers()
    model: dict[int, float] = {}
    for verb, key, when in steps:
        if verb == "set":
            timers.set(key, when)
            model[key] = when
        elif verb == "cancel":
            timers.cancel(key)
            model.pop(key, None)
        else:
            due = timers.pop_due(when)
            if due is None:
                assert all(deadline > when for deadline in model.values())
            else:
                assert model[due] == min(model.values()) <= when
                del model[due]
        assert timers.next_deadline() == min(model.values(), default=math.inf)
        assert len(timers) == len(model)


@given(st.lists(st.tuples(st.sampled_from(["new", "release"]), st.integers(250, 262))))
def test_spis_equal_a_set(steps: list[tuple[str, int]]) -> None:
    spis, model = SpiAllocator(Random(3)), set[int]()
    for verb, number in steps:
        if verb == "new":
            spi = spis.allocate()
            assert spi not in model
            assert 256 <= spi < 2**32
            model.add(spi)
        else:
            spis.release(Spi(number))
            model.discard(number)
        assert len(spis) == len(model)
