"""Properties that the onion signalling message must have (for every length of path)."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass
from random import Random

import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.addresses import Endpoint, OverlayAddress, new_circuit_address
from overlay.apm.crypto import HYBRID_SUITE, X25519_SUITE, OnionPrivateKey
from overlay.apm.geometry import GEOMETRIES
from overlay.apm.layer import ExitLayer, IpVersions, Layer, LayerTerms, RelayLayer
from overlay.apm.onion import (
    ExtractedOnion,
    OnionHop,
    SealedOnion,
    construct_onion,
    extract_onion_info,
)
from overlay.errors import Malformed, NotAuthentic
from overlay.ipsec.interface import Spi
from overlay.link.events import LinkPeer
from overlay.sensitive import SecretBytes

GEOMETRY = GEOMETRIES[X25519_SUITE]
LENGTHS = range(1, GEOMETRY.slots + 1)


@dataclass
class Path:
    keys: list[OnionPrivateKey]
    hops: list[OnionHop]
    message: bytes


def make_path(length: int, seed: int) -> Path:
    rng = Random(seed)
    raw = [rng.randbytes(32) for _ in range(length)]
    nodes = [
        OverlayAddress(bytes.fromhex("fd6d6978") + rng.randbytes(12)) for _ in range(length + 2)
    ]
    near = [new_circuit_address(*pair, rng) for pair in itertools.pairwise(nodes)]
    layers: list[Layer] = []
    for i in range(length):
        terms = LayerTerms(
            esp_suite=rng.choice([1, 2, 3, 4, 7]),
            seed=SecretBytes(rng.randbytes(32)),
            forward_spi=Spi(rng.randint(256, 2**32 - 1)),
            backward_spi=Spi(rng.randint(256, 2**32 - 1)),
            near=near[i],
            expires_min=rng.randint(0, 2**32 - 1),
            lifetime_s=rng.randint(1, 2**32 - 1),
        )
        if i == length - 1:
            layers.append(ExitLayer(terms, IpVersions(rng.randint(1, 3))))
        else:
            peer = LinkPeer(nodes[i + 2], rng.randbytes(32), Endpoint("203.0.113.9", 4500))
            layers.append(RelayLayer(terms, near[i + 1], peer))
    hops = [
        OnionHop(X25519PrivateKey.from_private_bytes(r).public_key().public_bytes_raw(), layer)
        for r, layer in zip(raw, layers, strict=True)
    ]
    keys = [OnionPrivateKey(X25519_SUITE, SecretBytes(r)) for r in raw]
    return Path(keys, hops, construct_onion(X25519_SUITE, hops, rng))


def peel(message: bytes, key: OnionPrivateKey) -> ExtractedOnion:
    return extract_onion_info(SealedOnion.parse(message), key)


def views(path: Path) -> list[bytes]:
    """The message as each hop receives it."""
    seen = [path.message]
    for key in path.keys[:-1]:
        peeled = peel(seen[-1], key).peeled
        assert peeled is not None
        seen.append(peeled)
    return seen


@given(st.sampled_from(LENGTHS), st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_every_hop_reads_its_own_layer_and_the_exit_passes_nothing_on(
    length: int, seed: int
) -> None:
    path = make_path(length, seed)
    message: bytes | None = path.message
    for key, hop in zip(path.keys, path.hops, strict=True):
        assert message is not None
        assert len(message) == GEOMETRY.message_bytes
        extracted = peel(message, key)
        assert extracted.layer == hop.layer
        message = extracted.peeled
    assert message is None


@given(st.sampled_from(LENGTHS), st.integers(0, 2**32), st.data())
@settings(max_examples=40, deadline=None)
def test_any_changed_bit_is_detected_at_the_very_next_hop(
    length: int, seed: int, data: st.DataObject
) -> None:
    path = make_path(length, seed)
    hop = data.draw(st.integers(0, length - 1))
    bit = data.draw(st.integers(0, GEOMETRY.message_bytes * 8 - 1))
    changed = bytearray(views(path)[hop])
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises((NotAuthentic, Malformed)):
        peel(bytes(changed), path.keys[hop])


def assert_detected(message: bytes, key: OnionPrivateKey, bit: int) -> None:
    changed = bytearray(message)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises((NotAuthentic, Malformed)):
        peel(bytes(changed), key)


@pytest.mark.slow
def test_one_bit_of_every_byte_is_detected_at_every_hop_of_a_path() -> None:
    path = make_path(3, 1)
    for hop, view in enumerate(views(path)):
        for byte in range(len(view)):
            assert_detected(view, path.keys[hop], byte * 8 + (byte + hop) % 8)


@pytest.mark.slow
def test_every_bit_is_detected_at_a_middle_hop_of_the_longest_path() -> None:
    path = make_path(5, 2)
    view = views(path)[2]
    for bit in range(len(view) * 8):
        assert_detected(view, path.keys[2], bit)


@given(st.sampled_from(LENGTHS), st.integers(0, 2**32))
@settings(max_examples=10, deadline=None)
def test_only_the_hop_in_turn_can_open(length: int, seed: int) -> None:
    path = make_path(length, seed)
    for hop, view in enumerate(views(path)):
        for other, key in enumerate(path.keys):
            if other != hop:
                with pytest.raises(NotAuthentic):
                    peel(view, key)


def longest_common_run(left: bytes, right: bytes) -> int:
    for size in range(1, 9):
        pieces = {left[i : i + size] for i in range(len(left) - size + 1)}
        if not any(right[i : i + size] in pieces for i in range(len(right) - size + 1)):
            return size - 1
    return 8


@given(st.sampled_from(LENGTHS[1:]), st.integers(0, 2**32))
@settings(max_examples=15, deadline=None)
def test_views_of_different_hops_share_no_run_of_bytes_beyond_chance(
    length: int, seed: int
) -> None:
    path = make_path(length, seed)
    bodies = [view[GEOMETRY.header_bytes :] for view in views(path)]
    for i, left in enumerate(bodies):
        for right in bodies[i + 1 :]:
            # 10**6 pairs of positions: a run of 6 happens by chance once in 2**28.
            assert longest_common_run(left, right) < 6


@given(st.sampled_from(LENGTHS[1:]), st.integers(0, 2**32))
@settings(max_examples=15, deadline=None)
def test_views_of_consecutive_hops_differ_in_about_half_of_their_bits(
    length: int, seed: int
) -> None:
    path = make_path(length, seed)
    seen = views(path)
    for left, right in itertools.pairwise(seen):
        pairs = zip(left[2:], right[2:], strict=True)
        differing = sum((a ^ b).bit_count() for a, b in pairs)
        bits = (GEOMETRY.message_bytes - 2) * 8
        # Six standard deviations of a fair coin.
        assert abs(differing - bits / 2) < 6 * (bits / 4) ** 0.5


def test_each_byte_of_a_view_is_uniform_whatever_position_and_length() -> None:
    """A hop that saw how far the filler reaches would know its position."""
    by_position: dict[tuple[int, int], bytes] = {}
    for length in LENGTHS:
        for seed in range(4):
            for hop, view in enumerate(views(make_path(length, seed))):
                by_position[length, hop] = by_position.get((length, hop), b"") + view[34:]
    assert len(by_position) == 15
    for joined in by_position.values():
        counts = [joined.count(value) for value in range(256)]
        expected = len(joined) / 256
        chi_squared = sum((count - expected) ** 2 / expected for count in counts)
        # 255 degrees of freedom: mean 255, standard deviation 22.6; six of them.
        assert chi_squared < 255 + 6 * 22.6


def test_layers_tell_a_middle_hop_neither_position_nor_length() -> None:
    """Same size, same fields, and no field but the next hop that depends on the position."""
    for length in (3, 5):
        path = make_path(length, 9)
        for hop in path.hops[:-1]:
            assert isinstance(hop.layer, RelayLayer)
            encoded = hop.layer.encode()
            assert len(encoded) == GEOMETRY.layer_bytes
            assert encoded[149:] == bytes(11)


def test_two_onions_for_the_same_layers_have_nothing_in_common() -> None:
    path = make_path(2, 3)
    again = construct_onion(X25519_SUITE, path.hops, Random(4))
    assert longest_common_run(path.message[2:], again[2:]) < 6


def test_too_many_hops_or_layers_out_of_order_are_a_local_error() -> None:
    path = make_path(5, 1)
    for hops in ([], [*path.hops[:1], *path.hops], path.hops[:2], path.hops[::-1]):
        with pytest.raises(ValueError, match="hop"):
            construct_onion(X25519_SUITE, hops, Random(1))


@pytest.mark.parametrize("size", [0, 1, 2, 1041, 1043, 6482])
def test_message_of_another_size_is_malformed(size: int) -> None:
    with pytest.raises(Malformed):
        SealedOnion.parse(make_path(1, 1).message.ljust(size, b"\0")[:size])


def test_message_of_another_version_or_suite_is_malformed() -> None:
    message = make_path(1, 1).message
    for header in (b"\x00\x01", b"\x02\x01", b"\x01\x00", b"\x01\x03"):
        with pytest.raises(Malformed):
            SealedOnion.parse(header + message[2:])


def test_message_of_a_suite_without_key_is_not_authentic() -> None:
    geometry = GEOMETRIES[HYBRID_SUITE]
    message = geometry.header + bytes(geometry.message_bytes - 2)
    with pytest.raises(NotAuthentic):
        peel(message, make_path(1, 1).keys[0])


def test_authentic_layer_of_nonsense_is_malformed(monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_path(1, 1)
    monkeypatch.setattr(ExitLayer, "encode", lambda _: b"\xff" * GEOMETRY.layer_bytes)
    sealed = construct_onion(X25519_SUITE, path.hops, Random(2))
    with pytest.raises(Malformed):
        peel(sealed, path.keys[0])


def test_hybrid_onion_goes_through_five_hops() -> None:
    """The post-quantum suite: the same construction, larger slots."""
    path = make_path(5, 11)
    raw = [Random(i).randbytes(32) for i in range(5)]
    hops = []
    for seed, hop in zip(raw, path.hops, strict=True):
        expanded = hashlib.shake_256(seed).digest(96)
        public = (
            MLKEM768PrivateKey.from_seed_bytes(expanded[:64]).public_key().public_bytes_raw()
            + X25519PrivateKey.from_private_bytes(expanded[64:]).public_key().public_bytes_raw()
        )
        hops.append(OnionHop(public, hop.layer))
    message: bytes | None = construct_onion(HYBRID_SUITE, hops, Random(5))
    for seed, hop in zip(raw, hops, strict=True):
        assert message is not None
        assert len(message) == GEOMETRIES[HYBRID_SUITE].message_bytes
        key = OnionPrivateKey(HYBRID_SUITE, SecretBytes(seed))
        changed = bytearray(message)
        changed[-1] ^= 1
        with pytest.raises(NotAuthentic):
            peel(bytes(changed), key)
        extracted = peel(message, key)
        assert extracted.layer == hop.layer
        message = extracted.peeled
    assert message is None
