from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from overlay.apm.crypto import (
    HYBRID_SUITE,
    ONION_SUITES,
    X25519_SUITE,
    OnionPrivateKey,
    apply_stream,
    nesm_decrypt_data,
    nesm_encrypt_data,
)
from overlay.errors import NotAuthentic
from overlay.sensitive import SecretBytes

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "hpke-onion-suites.json").read_text())
SUITE_OF_KEM = {0x20: X25519_SUITE, 0x647A: HYBRID_SUITE}


def public_key_of(suite: int, raw: bytes) -> bytes:
    if suite == X25519_SUITE:
        return ONION_SUITES[suite].load_private(raw).public_key().public_bytes_raw()
    vector = next(v for v in VECTORS if SUITE_OF_KEM[v["kem_id"]] == suite)
    assert bytes.fromhex(vector["skRm"]) == raw
    return bytes.fromhex(vector["pkRm"])


def private_raw(suite: int) -> bytes:
    vector = next(v for v in VECTORS if SUITE_OF_KEM[v["kem_id"]] == suite)
    return bytes.fromhex(vector["skRm"])


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["origin"])
def test_published_key_schedule_is_ours(vector: dict) -> None:
    suite = SUITE_OF_KEM[vector["kem_id"]]
    aead = ChaCha20Poly1305(bytes.fromhex(vector["key"]))
    nonce = bytes.fromhex(vector["base_nonce"])
    first = {name: bytes.fromhex(value) for name, value in vector["encryption"].items()}
    assert first["nonce"] == nonce
    assert aead.decrypt(nonce, first["ct"], first["aad"]) == first["pt"]

    key = OnionPrivateKey(suite, SecretBytes(bytes.fromhex(vector["skRm"])))
    sealed = bytes.fromhex(vector["enc"]) + aead.encrypt(nonce, first["pt"], None)
    info = bytes.fromhex(vector["info"])
    assert nesm_decrypt_data(key, sealed, info) == first["pt"]
    with pytest.raises(NotAuthentic):
        nesm_decrypt_data(key, sealed, info + b"!")


@pytest.mark.parametrize("suite", ONION_SUITES)
def test_declared_sizes_are_the_real_ones(suite: int) -> None:
    raw = private_raw(suite)
    sealed = nesm_encrypt_data(suite, public_key_of(suite, raw), b"layer", b"info")
    declared = ONION_SUITES[suite]
    assert len(raw) == declared.private_key_bytes
    assert len(public_key_of(suite, raw)) == declared.public_key_bytes
    assert len(sealed) == declared.encapsulated_key_bytes + 5 + declared.tag_bytes


@pytest.mark.parametrize("suite", ONION_SUITES)
def test_sealed_data_opens_with_the_same_info_alone(suite: int) -> None:
    raw = private_raw(suite)
    key = OnionPrivateKey(suite, SecretBytes(raw))
    sealed = nesm_encrypt_data(suite, public_key_of(suite, raw), b"layer", b"info")
    assert nesm_decrypt_data(key, sealed, b"info") == b"layer"
    for wrong in (b"", b"infO", b"info "):
        with pytest.raises(NotAuthentic):
            nesm_decrypt_data(key, sealed, wrong)


@pytest.mark.parametrize("suite", ONION_SUITES)
@pytest.mark.parametrize("size", [0, 1, 31, 32, 47])
def test_truncated_data_is_not_authentic(suite: int, size: int) -> None:
    raw = private_raw(suite)
    key = OnionPrivateKey(suite, SecretBytes(raw))
    sealed = nesm_encrypt_data(suite, public_key_of(suite, raw), b"layer", b"info")
    with pytest.raises(NotAuthentic):
        nesm_decrypt_data(key, sealed[:size], b"info")
    with pytest.raises(NotAuthentic):
        nesm_decrypt_data(key, sealed + bytes(size + 1), b"info")


@pytest.mark.parametrize("suite", ONION_SUITES)
def test_every_bit_of_the_key_share_counts(suite: int) -> None:
    raw = private_raw(suite)
    key = OnionPrivateKey(suite, SecretBytes(raw))
    sealed = nesm_encrypt_data(suite, public_key_of(suite, raw), b"layer", b"info")
    # The last 32 bytes of both key shares are the X25519 one, whose top bit X25519 ignores.
    end = ONION_SUITES[suite].encapsulated_key_bytes
    for bit in range((end - 32) * 8, end * 8):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(NotAuthentic):
            nesm_decrypt_data(key, bytes(changed), b"info")


def test_wrong_key_does_not_open() -> None:
    sealed = nesm_encrypt_data(1, public_key_of(1, bytes(range(32))), b"layer", b"info")
    with pytest.raises(NotAuthentic):
        nesm_decrypt_data(OnionPrivateKey(1, SecretBytes(b"x" * 32)), sealed, b"info")


@pytest.mark.parametrize("public", [b"", bytes(31), bytes(33), bytes(32)])
def test_invalid_public_key_is_not_authentic(public: bytes) -> None:
    # 32 zero bytes are a point of small order: X25519 would give a key that everyone knows.
    with pytest.raises(NotAuthentic):
        nesm_encrypt_data(1, public, b"layer", b"info")


def test_private_key_of_another_size_or_suite_is_refused() -> None:
    for suite, raw in ((1, bytes(31)), (9, bytes(32))):
        with pytest.raises(ValueError, match="onion key"):
            OnionPrivateKey(suite, SecretBytes(raw))


def test_stream_is_rfc_8439_and_its_own_inverse() -> None:
    # RFC 8439, appendix A.1, vector 1: key, counter and nonce of zeros.
    expected = bytes.fromhex("76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7")
    key = SecretBytes(bytes(32))
    assert apply_stream(key, bytes(32)) == expected
    assert apply_stream(key, apply_stream(key, b"rest of a message")) == b"rest of a message"
