from __future__ import annotations

from random import Random

import pytest

from overlay.addresses import Endpoint
from overlay.errors import NotAuthentic, Replayed
from overlay.link.cookie import (
    COOKIE_ROTATION_S,
    CookieJar,
    LoadMeter,
    ReceiverKeys,
    open_cookie,
    source_prefix,
    with_macs,
)
from overlay.link.handshake import CookieReply, Initiation, parse_message
from overlay.link.replay import InitiationClock, TimestampTable
from overlay.link.settings import LinkSettings

NOW = 1_800_000_000.0
KEYS = ReceiverKeys.of(b"k" * 32, b"n" * 32)
ALICE = Endpoint("8.8.8.8", 4500)
MESSAGE = b"\x01\x01" + bytes(212)


def initiation(cookie: bytes | None = None, message: bytes = MESSAGE) -> Initiation:
    parsed = parse_message(with_macs(message, KEYS, cookie))
    assert isinstance(parsed, Initiation)
    return parsed


def cookie_from(jar: CookieJar, source: Endpoint, now: float) -> bytes:
    asked = initiation()
    return open_cookie(reply_to(asked, jar, source, now), KEYS, asked.mac1)


def reply_to(asked: Initiation, jar: CookieJar, source: Endpoint, now: float) -> CookieReply:
    reply = parse_message(jar.reply(asked.encoded, source, now))
    assert isinstance(reply, CookieReply)
    assert reply.receiver_index == asked.sender_index
    return reply


def test_a_cookie_is_good_for_its_endpoint_alone():
    jar = CookieJar(KEYS, Random(1))
    answer = initiation(cookie_from(jar, ALICE, NOW))
    assert jar.is_valid(answer.encoded, ALICE, NOW)
    assert not jar.is_valid(answer.encoded, Endpoint("8.8.8.8", 4501), NOW)
    assert not jar.is_valid(answer.encoded, Endpoint("8.8.8.9", 4500), NOW)
    assert not jar.is_valid(initiation().encoded, ALICE, NOW)
    assert not CookieJar(KEYS, Random(2)).is_valid(answer.encoded, ALICE, NOW)


@pytest.mark.parametrize(
    ("age_s", "valid"),
    [
        (COOKIE_ROTATION_S - 1, True),
        (COOKIE_ROTATION_S + 1, True),
        (2 * COOKIE_ROTATION_S + 1, False),
    ],
)
def test_a_cookie_expires_after_two_rotations(age_s, valid):
    jar = CookieJar(KEYS, Random(1))
    answer = initiation(cookie_from(jar, ALICE, NOW))
    assert jar.is_valid(answer.encoded, ALICE, NOW + age_s) is valid


def test_a_cookie_expires_when_rotations_happen_one_by_one():
    jar = CookieJar(KEYS, Random(1))
    answer = initiation(cookie_from(jar, ALICE, NOW))
    assert jar.is_valid(answer.encoded, ALICE, NOW + COOKIE_ROTATION_S)
    assert not jar.is_valid(answer.encoded, ALICE, NOW + 2 * COOKIE_ROTATION_S)


def test_a_cookie_reply_opens_only_for_the_initiation_that_it_answers():
    reply = reply_to(initiation(), CookieJar(KEYS, Random(1)), ALICE, NOW)
    other = initiation(message=MESSAGE[:-1] + b"\1")
    with pytest.raises(NotAuthentic):
        open_cookie(reply, KEYS, other.mac1)
    with pytest.raises(NotAuthentic):
        open_cookie(reply, ReceiverKeys.of(b"x" * 32, b"n" * 32), initiation().mac1)


def test_mac1_depends_on_receiver_network_and_every_byte_before_it():
    assert KEYS.is_valid(initiation().encoded)
    assert not ReceiverKeys.of(b"x" * 32, b"n" * 32).is_valid(initiation().encoded)
    assert not ReceiverKeys.of(b"k" * 32, b"x" * 32).is_valid(initiation().encoded)


def test_load_is_over_above_the_limit_and_for_some_time_after():
    meter = LoadMeter(2)
    assert [meter.is_overloaded(NOW) for _ in range(3)] == [False, False, True]
    assert meter.is_overloaded(NOW + 1)
    assert not meter.is_overloaded(NOW + 2)
    assert not meter.is_overloaded(NOW + 60)
    assert not meter.is_overloaded(NOW - 60)


@pytest.mark.parametrize("rate_per_s", [30, 45])
def test_initiations_below_the_limit_need_no_cookie_whenever_they_come(rate_per_s):
    meter = LoadMeter(50)
    assert not any(meter.is_overloaded(NOW + n / rate_per_s) for n in range(1000))


def test_prefixes_are_24_and_56_bits():
    assert source_prefix(ALICE) == bytes((8, 8, 8))
    assert source_prefix(Endpoint("2001:db8:1:2ff::1", 1)).hex() == "20010db8000102"


def test_timestamps_grow_even_if_time_does_not():
    clock = InitiationClock()
    stamps = [clock.stamp(now) for now in (NOW, NOW, NOW - 5, NOW + 1)]
    assert stamps == sorted(set(stamps))
    assert stamps[-1] == int(NOW + 1) * 1_000_000


def test_only_newer_timestamps_within_the_skew_pass():
    table = TimestampTable(10, 60.0)
    at = int(NOW) * 1_000_000
    table.check(b"alice", at, NOW)
    table.record(b"alice", at)
    for stamp in (at, at - 1, at - 60_000_001, at + 60_000_001):
        with pytest.raises(Replayed):
            table.check(b"alice", stamp, NOW)
    table.check(b"alice", at + 1, NOW)
    table.check(b"bob", at, NOW)


def test_the_initiator_heard_longest_ago_is_forgotten_first():
    table = TimestampTable(2, 60.0)
    at = int(NOW) * 1_000_000
    for name in (b"alice", b"bob", b"alice", b"carol"):
        table.record(name, at)
    assert len(table) == 2
    table.check(b"bob", at, NOW)
    for name in (b"alice", b"carol"):
        with pytest.raises(Replayed):
            table.check(name, at, NOW)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("handshake_timeout_s", 0.0),
        ("retry_initial_s", -1.0),
        ("rekey_after_s", float("nan")),
        ("retired_sa_s", float("inf")),
        ("max_links", 0),
        ("max_half_open", -1),
        ("unconfirmed_s", 1.0),
        ("retry_max_s", 0.1),
        ("max_accepted_links", 5000),
    ],
)
def test_settings_out_of_range_are_refused_with_a_sentence(setting, value):
    with pytest.raises(ValueError, match=rf"^{setting} must .*[^.]$"):
        LinkSettings(**{setting: value})
