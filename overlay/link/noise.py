"""The Noise handshake pattern IK with 25519, ChaChaPoly and SHA256 (Noise, revision 34).

::

    IK:  <- s                       the initiator knows the responder's static key
         -> e, es, s, ss            begin()          -> InitiatorAwaiting
                                    read_initiation() -> ResponderAnswering
         <- e, ee, se               .respond()       -> SplitKeys
                                    .complete()      -> SplitKeys

Each phase has its own immutable type. Reading a forged message raises an error and changes
nothing, so the genuine message can still be read afterwards.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from overlay.errors import Malformed, NotAuthentic
from overlay.sensitive import SecretBytes

__all__ = [
    "KEY_BYTES",
    "PROTOCOL_NAME",
    "TAG_BYTES",
    "InitiatorAwaiting",
    "ResponderAnswering",
    "SplitKeys",
    "begin",
    "diffie_hellman",
    "read_initiation",
]

PROTOCOL_NAME: Final = b"Noise_IK_25519_ChaChaPoly_SHA256"
_BINDING_LABEL: Final = b"overlay link response mac v1"

KEY_BYTES: Final = 32
TAG_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class SplitKeys:
    """The result of a handshake (Noise, 5.2 Split): one key per direction and the handshake hash.

    The hash covers all data that both sides exchanged. It is public, unlike the keys.
    """

    initiator_to_responder: SecretBytes
    responder_to_initiator: SecretBytes
    handshake_hash: bytes


def diffie_hellman(private: X25519PrivateKey, public: bytes) -> bytes:
    """Return the X25519 shared secret (RFC 7748), 32 bytes.

    Raises:
        NotAuthentic: ``public`` has another size, or is a point of small
            order, for which all private keys give the same result.
    """
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise NotAuthentic("the peer's X25519 key cannot be used") from error


@dataclass(frozen=True, slots=True)
class _Symmetric:
    """SymmetricState and CipherState of Noise: chaining key, hash, key and nonce."""

    chaining_key: bytes
    handshake_hash: bytes
    key: bytes = b""
    nonce: int = 0

    def mix_hash(self, data: bytes) -> _Symmetric:
        digest = hashlib.sha256(self.handshake_hash + data).digest()
        return _Symmetric(self.chaining_key, digest, self.key, self.nonce)

    def mix_key(self, secret: bytes) -> _Symmetric:
        # Noise's HKDF with two outputs is RFC 5869's with an empty info and 64 bytes.
        both = HKDF(SHA256(), 2 * KEY_BYTES, self.chaining_key, b"").derive(secret)
        return _Symmetric(both[:KEY_BYTES], self.handshake_hash, both[KEY_BYTES:], 0)

    def encrypt_and_hash(self, plaintext: bytes) -> tuple[_Symmetric, bytes]:
        sealed = ChaCha20Poly1305(self.key).encrypt(
            self._nonce_bytes(), plaintext, self.handshake_hash
        )
        return self._stepped().mix_hash(sealed), sealed

    def decrypt_and_hash(self, sealed: bytes) -> tuple[_Symmetric, bytes]:
        try:
            plaintext = ChaCha20Poly1305(self.key).decrypt(
                self._nonce_bytes(), sealed, self.handshake_hash
            )
        except InvalidTag as error:
            raise NotAuthentic("a handshake message does not decrypt") from error
        return self._stepped().mix_hash(sealed), plaintext

    def binding(self) -> bytes:
        """Return a key that both sides alone know, as soon as message 1 is written.

        The chaining key is otherwise a key of HMAC for 32-byte secrets alone, so the label
        keeps this use apart.
        """
        return hmac.digest(self.chaining_key, _BINDING_LABEL, "sha256")

    def split(self) -> SplitKeys:
        both = HKDF(SHA256(), 2 * KEY_BYTES, self.chaining_key, b"").derive(b"")
        first, second = SecretBytes(both[:KEY_BYTES]), SecretBytes(both[KEY_BYTES:])
        return SplitKeys(first, second, self.handshake_hash)

    def _nonce_bytes(self) -> bytes:
        return bytes(4) + self.nonce.to_bytes(8, "little")

    def _stepped(self) -> _Symmetric:
        return _Symmetric(self.chaining_key, self.handshake_hash, self.key, self.nonce + 1)

    def __repr__(self) -> str:
        return "_Symmetric(...)"


def _initialise(prologue: bytes, responder_static: bytes) -> _Symmetric:
    start = _Symmetric(PROTOCOL_NAME, PROTOCOL_NAME)  # the name has exactly HASHLEN bytes
    return start.mix_hash(prologue).mix_hash(responder_static)


@dataclass(frozen=True, slots=True, repr=False)
class InitiatorAwaiting:
    """An initiator that has written message 1 and waits for message 2."""

    _symmetric: _Symmetric
    _static: X25519PrivateKey
    _ephemeral: X25519PrivateKey

    def binding(self) -> bytes:
        """Return 32 bytes that only this initiator and the reader of message 1 can compute."""
        return self._symmetric.binding()

    def complete(self, message: bytes) -> tuple[SplitKeys, bytes]:
        """Read message 2, ``e (32) | payload + tag (16)``; return the keys and the payload.

        Raises:
            Malformed: the message is too short.
            NotAuthentic: it is not the responder's answer to this message 1.
        """
        if len(message) < KEY_BYTES + TAG_BYTES:
            raise Malformed("a handshake response is too short")
        ephemeral, sealed = message[:KEY_BYTES], message[KEY_BYTES:]
        symmetric = self._symmetric.mix_hash(ephemeral)
        symmetric = symmetric.mix_key(diffie_hellman(self._ephemeral, ephemeral))
        symmetric = symmetric.mix_key(diffie_hellman(self._static, ephemeral))
        symmetric, payload = symmetric.decrypt_and_hash(sealed)
        return symmetric.split(), payload


def begin(
    static: X25519PrivateKey,
    ephemeral: bytes,
    responder_static: bytes,
    prologue: bytes,
    payload: bytes,
) -> tuple[InitiatorAwaiting, bytes]:
    """Write message 1: ``e (32) | s + tag (48) | payload + tag (16)``.

    Args:
        static: the initiator's static private key.
        ephemeral: 32 new random bytes, used only for this message.
        responder_static: the responder's static public key, 32 bytes.
        prologue: bytes that must be equal on both sides; they are not sent.
        payload: encrypted to the responder, without forward secrecy if its static key leaks.

    Raises:
        NotAuthentic: the responder's key cannot be used.
    """
    ephemeral_private = X25519PrivateKey.from_private_bytes(ephemeral)
    e = ephemeral_private.public_key().public_bytes_raw()
    symmetric = _initialise(prologue, responder_static).mix_hash(e)
    symmetric = symmetric.mix_key(diffie_hellman(ephemeral_private, responder_static))
    symmetric, s = symmetric.encrypt_and_hash(static.public_key().public_bytes_raw())
    symmetric = symmetric.mix_key(diffie_hellman(static, responder_static))
    symmetric, sealed = symmetric.encrypt_and_hash(payload)
    return InitiatorAwaiting(symmetric, static, ephemeral_private), e + s + sealed


@dataclass(frozen=True, slots=True, repr=False)
class ResponderAnswering:
    """A responder that has read message 1: it knows the initiator's static key and payload."""

    _symmetric: _Symmetric
    _initiator_ephemeral: bytes
    initiator_static: bytes
    payload: bytes

    def binding(self) -> bytes:
        """Return 32 bytes that only this responder and the writer of message 1 can compute."""
        return self._symmetric.binding()

    def respond(self, ephemeral: bytes, payload: bytes) -> tuple[SplitKeys, bytes]:
        """Write message 2 with 32 new random bytes as ephemeral key; return keys and message.

        Raises:
            NotAuthentic: one of the initiator's keys cannot be used.
        """
        private = X25519PrivateKey.from_private_bytes(ephemeral)
        e = private.public_key().public_bytes_raw()
        symmetric = self._symmetric.mix_hash(e)
        symmetric = symmetric.mix_key(diffie_hellman(private, self._initiator_ephemeral))
        symmetric = symmetric.mix_key(diffie_hellman(private, self.initiator_static))
        symmetric, sealed = symmetric.encrypt_and_hash(payload)
        return symmetric.split(), e + sealed


def read_initiation(
    static: X25519PrivateKey, prologue: bytes, message: bytes
) -> ResponderAnswering:
    """Read message 1 with the responder's static private key.

    Raises:
        Malformed: the message is too short.
        NotAuthentic: it is not for this key and prologue, or not from the holder of the
            static key that it carries.
    """
    sealed_static_end = 2 * KEY_BYTES + TAG_BYTES
    if len(message) < sealed_static_end + TAG_BYTES:
        raise Malformed("a handshake initiation is too short")
    e = message[:KEY_BYTES]
    symmetric = _initialise(prologue, static.public_key().public_bytes_raw()).mix_hash(e)
    symmetric = symmetric.mix_key(diffie_hellman(static, e))
    symmetric, initiator_static = symmetric.decrypt_and_hash(message[KEY_BYTES:sealed_static_end])
    symmetric = symmetric.mix_key(diffie_hellman(static, initiator_static))
    symmetric, payload = symmetric.decrypt_and_hash(message[sealed_static_end:])
    return ResponderAnswering(symmetric, e, initiator_static, payload)
