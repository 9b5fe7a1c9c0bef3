"""What a node signs is newer than what it signed before, whatever happens to its clock."""

import json

import pytest

from overlay.dht.descriptor import MAX_SEQUENCE
from overlay.link.replay import TimestampTable
from overlay.node.last_signed import LastSigned

NOW = 1_800_000_000.0
KEY = bytes(32)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "last_signed.json"


def test_numbers_grow_although_the_clock_was_set_back(file):
    ahead = LastSigned(file, NOW + 500)
    peer = TimestampTable(4, 600.0)
    sequences = [ahead.next_sequence(NOW + 500)]
    stamps = [ahead.initiations.stamp(NOW + 500 + step) for step in (0, 0, 0.5, 20)]
    for stamp in stamps:
        peer.check(KEY, stamp, NOW)
        peer.record(KEY, stamp)
    right = LastSigned(file, NOW)
    for _ in range(3):
        sequences.append(right.next_sequence(NOW))
        stamp = right.initiations.stamp(NOW)
        peer.check(KEY, stamp, NOW)
        peer.record(KEY, stamp)
    assert sequences == sorted(set(sequences))


def test_a_clock_that_is_right_is_not_left_behind(file):
    node = LastSigned(file, NOW)
    assert node.next_sequence(NOW) == int(NOW * 1000)
    assert node.initiations.stamp(NOW) == int(NOW * 1_000_000)
    later = LastSigned(file, NOW + 60)
    assert later.next_sequence(NOW + 60) == int((NOW + 60) * 1000)
    assert later.initiations.stamp(NOW + 60) == int((NOW + 60) * 1_000_000)


def test_a_timestamp_that_everyone_refused_need_not_be_exceeded(file):
    LastSigned(file, NOW + 86_400).initiations.stamp(NOW + 86_400)
    assert LastSigned(file, NOW).initiations.stamp(NOW) == int(NOW * 1_000_000)


def test_the_file_is_written_once_a_second_at_most(file):
    clock = LastSigned(file, NOW).initiations
    clock.stamp(NOW)
    file.unlink()
    clock.stamp(NOW + 0.9)
    assert not file.exists()
    clock.stamp(NOW + 1.1)
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        "[" * 4000,
        '{"sequence": true, "link_us": 1}',
        '{"sequence": -1, "link_us": 1}',
        json.dumps({"sequence": MAX_SEQUENCE, "link_us": 1}),
        json.dumps({"sequence": 10**19, "link_us": -1}),
        "9" * 5000,
    ],
)
def test_a_damaged_file_is_as_none(file, content):
    file.write_text(content)
    node = LastSigned(file, NOW)
    assert node.next_sequence(NOW) == int(NOW * 1000)
    assert LastSigned(file, NOW).next_sequence(NOW) == int(NOW * 1000) + 1


def test_a_directory_that_cannot_be_written_costs_no_start(tmp_path):
    node = LastSigned(tmp_path / "missing" / "last_signed.json", NOW)
    assert node.next_sequence(NOW) < node.next_sequence(NOW)
