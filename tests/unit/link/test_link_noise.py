from __future__ import annotations

from random import Random

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from dissononce.cipher.chachapoly import ChaChaPolyCipher
from dissononce.dh.x25519.keypair import KeyPair
from dissononce.dh.x25519.private import PrivateKey
from dissononce.dh.x25519.public import PublicKey
from dissononce.dh.x25519.x25519 import X25519DH
from dissononce.hash.sha256 import SHA256Hash
from dissononce.processing.handshakepatterns.interactive.IK import IKHandshakePattern
from dissononce.processing.impl.cipherstate import CipherState
from dissononce.processing.impl.handshakestate import HandshakeState
from dissononce.processing.impl.symmetricstate import SymmetricState

from overlay.errors import Malformed, NotAuthentic
from overlay.link.noise import begin, read_initiation

PROLOGUE = b"a prologue"
INITIATOR = X25519PrivateKey.from_private_bytes(Random(1).randbytes(32))
RESPONDER = X25519PrivateKey.from_private_bytes(Random(2).randbytes(32))
EPHEMERAL_1 = Random(3).randbytes(32)
EPHEMERAL_2 = Random(4).randbytes(32)
LOW_ORDER = bytes(32)


def public(private: X25519PrivateKey) -> bytes:
    return private.public_key().public_bytes_raw()


def key_pair(private: bytes) -> KeyPair:
    key = X25519PrivateKey.from_private_bytes(private)
    return KeyPair(PublicKey(public(key)), PrivateKey(private))


class FixedDh(X25519DH):
    """Dissononce's X25519 with a chosen ephemeral key."""

    def __init__(self, ephemeral: bytes) -> None:
        super().__init__()
        self._ephemeral = ephemeral

    def generate_keypair(self, privatekey=None):
        return (
            key_pair(self._ephemeral)
            if privatekey is None
            else super().generate_keypair(privatekey)
        )


def judge(*, initiator: bool, ephemeral: bytes) -> HandshakeState:
    state = HandshakeState(
        SymmetricState(CipherState(ChaChaPolyCipher()), SHA256Hash()), FixedDh(ephemeral)
    )
    static = INITIATOR if initiator else RESPONDER
    state.initialize(
        IKHandshakePattern(),
        initiator,
        PROLOGUE,
        s=key_pair(static.private_bytes_raw()),
        rs=PublicKey(public(RESPONDER)) if initiator else None,
    )
    return state


def has_key(cipher: CipherState, key: bytes) -> bool:
    """Tell whether the judge's cipher has this key: the first nonce is 0 (Noise, section 12.3)."""
    sealed = cipher.encrypt_with_ad(b"header", b"plaintext")
    return sealed == ChaCha20Poly1305(key).encrypt(bytes(12), b"plaintext", b"header")


def test_our_initiator_writes_and_reads_what_dissononce_does_byte_for_byte():
    ours, message_1 = begin(INITIATOR, EPHEMERAL_1, public(RESPONDER), PROLOGUE, b"hello")
    theirs, expected = judge(initiator=True, ephemeral=EPHEMERAL_1), bytearray()
    theirs.write_message(b"hello", expected)
    assert message_1 == bytes(expected)

    responder, read, message_2 = (
        judge(initiator=False, ephemeral=EPHEMERAL_2),
        bytearray(),
        bytearray(),
    )
    responder.read_message(message_1, read)
    assert bytes(read) == b"hello"
    one, two = responder.write_message(b"world", message_2)

    split, payload = ours.complete(bytes(message_2))
    assert payload == b"world"
    assert has_key(one, split.initiator_to_responder.reveal())
    assert has_key(two, split.responder_to_initiator.reveal())
    assert split.handshake_hash == bytes(responder.symmetricstate.get_handshake_hash())


def test_our_responder_reads_and_writes_what_dissononce_does_byte_for_byte():
    initiator, message_1 = judge(initiator=True, ephemeral=EPHEMERAL_1), bytearray()
    initiator.write_message(b"hello", message_1)
    ours = read_initiation(RESPONDER, PROLOGUE, bytes(message_1))
    assert ours.payload == b"hello"
    assert ours.initiator_static == public(INITIATOR)

    split, message_2 = ours.respond(EPHEMERAL_2, b"world")
    judge_responder, ignored, expected = (
        judge(initiator=False, ephemeral=EPHEMERAL_2),
        bytearray(),
        bytearray(),
    )
    judge_responder.read_message(bytes(message_1), ignored)
    judge_responder.write_message(b"world", expected)
    assert message_2 == bytes(expected)

    read = bytearray()
    one, two = initiator.read_message(message_2, read)
    assert bytes(read) == b"world"
    assert has_key(one, split.initiator_to_responder.reveal())
    assert has_key(two, split.responder_to_initiator.reveal())


def test_truncated_messages_are_malformed_or_not_authentic():
    awaiting, message_1 = begin(INITIATOR, EPHEMERAL_1, public(RESPONDER), PROLOGUE, b"hello")
    _, message_2 = read_initiation(RESPONDER, PROLOGUE, message_1).respond(EPHEMERAL_2, b"world")
    for end in range(len(message_1)):
        with pytest.raises((Malformed, NotAuthentic)):
            read_initiation(RESPONDER, PROLOGUE, message_1[:end])
    for end in range(len(message_2)):
        with pytest.raises((Malformed, NotAuthentic)):
            awaiting.complete(message_2[:end])


def test_a_forged_response_leaves_the_initiator_able_to_read_the_genuine_one():
    awaiting, message_1 = begin(INITIATOR, EPHEMERAL_1, public(RESPONDER), PROLOGUE, b"hello")
    _, message_2 = read_initiation(RESPONDER, PROLOGUE, message_1).respond(EPHEMERAL_2, b"world")
    with pytest.raises(NotAuthentic):
        awaiting.complete(message_2[:-1] + bytes((message_2[-1] ^ 1,)))
    assert awaiting.complete(message_2)[1] == b"world"


def test_another_prologue_or_key_does_not_decrypt():
    _, message_1 = begin(INITIATOR, EPHEMERAL_1, public(RESPONDER), PROLOGUE, b"hello")
    with pytest.raises(NotAuthentic):
        read_initiation(RESPONDER, b"another prologue", message_1)
    with pytest.raises(NotAuthentic):
        read_initiation(INITIATOR, PROLOGUE, message_1)


def test_keys_of_small_order_are_refused():
    with pytest.raises(NotAuthentic):
        begin(INITIATOR, EPHEMERAL_1, LOW_ORDER, PROLOGUE, b"")
    with pytest.raises(NotAuthentic):
        read_initiation(RESPONDER, PROLOGUE, LOW_ORDER + bytes(64))


def test_a_handshake_shows_no_secret_when_printed():
    awaiting, message_1 = begin(INITIATOR, EPHEMERAL_1, public(RESPONDER), PROLOGUE, b"hello")
    answering = read_initiation(RESPONDER, PROLOGUE, message_1)
    assert "chaining" not in repr(awaiting) + repr(answering)
    assert "hello" not in repr(answering)
