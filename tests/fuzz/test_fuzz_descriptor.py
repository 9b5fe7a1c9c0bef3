from __future__ import annotations

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from targets import ALICE, DESCRIPTOR_LABEL, TARGETS

from overlay.dht.descriptor import UnverifiedDescriptor
from overlay.errors import Malformed
from overlay.exit_policy import ExitPolicy

MALLORY = ALICE
LABEL = DESCRIPTOR_LABEL

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.binary(max_size=70)
    | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
GOOD = [
    1,
    "test",
    MALLORY.identity_key,
    [[1, MALLORY.onion_key]],
    MALLORY.link_key,
    [3, 4],
    [[b"\xc6\x33\x64\x07", 4500]],
    3,
    [[[True, 4, 0, b""], [False, 6, 32, b"\x20\x01\x0d\xb8", 80, 443]], [[4, 8, b"\x0a"]]],
    10_000,
    7,
    900,
    9_000,
]


def places(value: object, path: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    """Every place inside nested lists."""
    if not isinstance(value, list):
        return [path]
    return [path, *(p for i, inner in enumerate(value) for p in places(inner, (*path, i)))]


def replaced(value: object, path: tuple[int, ...], new: object) -> object:
    if not path or not isinstance(value, list):
        return new
    return [replaced(v, path[1:], new) if i == path[0] else v for i, v in enumerate(value)]


@given(st.binary(max_size=1100))
@example(b"")
@example(b"\x91" * 936 + bytes(64))  # nested deeply
@example(b"\x9d" + b"\x01" * 13 + bytes(64))
@settings(max_examples=150, deadline=None)
def test_any_bytes_give_a_descriptor_or_a_peer_error(data):
    TARGETS["descriptor"](data)


@pytest.mark.slow
@given(st.lists(st.tuples(st.sampled_from(places(GOOD)), plain), max_size=2))
@example([])
@settings(max_examples=100, deadline=None)
def test_any_signed_body_gives_a_descriptor_or_a_peer_error(changes):
    body: object = GOOD
    for path, new in changes:
        body = replaced(body, path, new)
    packed = msgpack.packb(body, use_bin_type=True)
    TARGETS["descriptor"](packed)


def test_the_fuzzed_body_is_good_before_it_is_changed():
    packed = msgpack.packb(GOOD, use_bin_type=True)
    encoded = packed + MALLORY.sign(LABEL + packed)
    assert UnverifiedDescriptor.parse(encoded).verify(network_id="test", now=1000.0).sequence == 7


@pytest.mark.slow
@given(plain)
@settings(max_examples=100, deadline=None)
def test_any_value_gives_an_exit_policy_or_malformed(value):
    try:
        policy = ExitPolicy.decode(value)
    except Malformed:
        return
    assert policy.encode() == value
