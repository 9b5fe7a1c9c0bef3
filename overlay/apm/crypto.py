"""Onion suites: public-key encryption of layers, and a stream cipher for the rest of an onion.

=====  =====================================================  ==============  ============
suite  HPKE (RFC 9180), base mode                             public key      key share
=====  =====================================================  ==============  ============
1      DHKEM(X25519), HKDF-SHA256, ChaCha20Poly1305           32 bytes        32 bytes
2      MLKEM768-X25519 (0x647a), HKDF-SHA256, same AEAD       1,216 bytes     1,120 bytes
=====  =====================================================  ==============  ============

Suite 2 is complete here, but no Mix descriptor carries its key yet.

``cryptography`` offers HPKE without associated data. So a hash of the data that a layer is bound
to is passed as ``info`` (RFC 9180, section 5.1). The key schedule includes ``info``, so another
value yields another key, and the tag does not verify.

HPKE draws its ephemeral key from the operating system; callers cannot supply a generator.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from overlay.errors import NotAuthentic
from overlay.sensitive import SecretBytes

__all__ = [
    "HYBRID_SUITE",
    "ONION_SUITES",
    "X25519_SUITE",
    "OnionPrivateKey",
    "OnionSuite",
    "apply_stream",
    "nesm_decrypt_data",
    "nesm_encrypt_data",
]

X25519_SUITE: Final = 1
HYBRID_SUITE: Final = 2

_STREAM_NONCE: Final = bytes(16)
"""ChaCha20's counter and nonce (RFC 8439). Zeros are safe, because each key is used only once."""

_PublicKey = X25519PublicKey | hpke.MLKEM768X25519PublicKey
_PrivateKey = X25519PrivateKey | hpke.MLKEM768X25519PrivateKey


@dataclass(frozen=True, slots=True)
class OnionSuite:
    """One numbered onion suite; sizes in bytes."""

    number: int
    name: str
    public_key_bytes: int
    private_key_bytes: int
    encapsulated_key_bytes: int
    tag_bytes: int
    hpke_suite: hpke.Suite
    load_public: Callable[[bytes], _PublicKey]
    load_private: Callable[[bytes], _PrivateKey]


def _load_hybrid_public(raw: bytes) -> hpke.MLKEM768X25519PublicKey:
    """Load ML-KEM-768 (1,184 bytes) | X25519 (32 bytes), the order of the HPKE-PQ draft."""
    return hpke.MLKEM768X25519PublicKey(
        MLKEM768PublicKey.from_public_bytes(raw[:1184]),
        X25519PublicKey.from_public_bytes(raw[1184:]),
    )


def _load_hybrid_private(seed: bytes) -> hpke.MLKEM768X25519PrivateKey:
    """Derive both private keys from a 32-byte seed with SHAKE256 (HPKE-PQ draft, X-Wing)."""
    expanded = hashlib.shake_256(seed).digest(96)
    return hpke.MLKEM768X25519PrivateKey(
        MLKEM768PrivateKey.from_seed_bytes(expanded[:64]),
        X25519PrivateKey.from_private_bytes(expanded[64:]),
    )


ONION_SUITES: Final = {
    X25519_SUITE: OnionSuite(
        number=X25519_SUITE,
        name="x25519",
        public_key_bytes=32,
        private_key_bytes=32,
        encapsulated_key_bytes=32,
        tag_bytes=16,
        hpke_suite=hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305),
        load_public=X25519PublicKey.from_public_bytes,
        load_private=X25519PrivateKey.from_private_bytes,
    ),
    HYBRID_SUITE: OnionSuite(
        number=HYBRID_SUITE,
        name="mlkem768-x25519",
        public_key_bytes=1216,
        private_key_bytes=32,
        encapsulated_key_bytes=1120,
        tag_bytes=16,
        hpke_suite=hpke.Suite(
            hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305
        ),
        load_public=_load_hybrid_public,
        load_private=_load_hybrid_private,
    ),
}
"""The onion suites by number."""


class OnionPrivateKey:
    """A private onion key, loaded once, with its suite."""

    __slots__ = ("_key", "suite")

    def __init__(self, suite: int, raw: SecretBytes) -> None:
        """Load the raw private key of an onion suite.

        Raises:
            ValueError: the suite is unknown, or the key has another size.
        """
        if suite not in ONION_SUITES or len(raw) != ONION_SUITES[suite].private_key_bytes:
            raise ValueError("an onion key needs a known onion suite and that suite's size")
        self.suite = suite
        self._key = ONION_SUITES[suite].load_private(raw.reveal())

    def open(self, sealed: bytes, info: bytes) -> bytes:
        """Decrypt ``encapsulated key | ciphertext``; errors are exceptions of the library."""
        return ONION_SUITES[self.suite].hpke_suite.decrypt(sealed, self._key, info=info)


def nesm_encrypt_data(suite: int, public_key: bytes, plaintext: bytes, info: bytes) -> bytes:
    """Encrypt a layer to an onion key (HPKE base mode, single shot, RFC 9180, section 6.1).

    Args:
        suite: number of the onion suite.
        public_key: key of the receiver, from its Mix descriptor.
        plaintext: the layer.
        info: data that the receiver must supply too; any other value makes decryption fail.

    Returns:
        encapsulated key | ciphertext | tag.

    Raises:
        NotAuthentic: the public key has a wrong size or is a point of small order.
    """
    onion_suite = ONION_SUITES[suite]
    if len(public_key) != onion_suite.public_key_bytes:
        raise NotAuthentic("the onion key has another size than its suite's keys")
    try:
        key = onion_suite.load_public(public_key)
        return onion_suite.hpke_suite.encrypt(plaintext, key, info=info)
    except ValueError as error:
        raise NotAuthentic("the onion key is not valid") from error


def nesm_decrypt_data(key: OnionPrivateKey, sealed: bytes, info: bytes) -> bytes:
    """Decrypt the result of :func:`nesm_encrypt_data` with the private key and the same ``info``.

    Raises:
        NotAuthentic: the key or ``info`` is another one, or a bit was changed.
    """
    try:
        return key.open(sealed, info)
    except (InvalidTag, ValueError) as error:
        raise NotAuthentic("the layer does not open with our onion key") from error


def apply_stream(key: SecretBytes, data: bytes) -> bytes:
    """XOR ``data`` with the ChaCha20 keystream of a 32-byte single-use key (RFC 8439, 2.4)."""
    cipher = Cipher(ChaCha20(key.reveal(), _STREAM_NONCE), mode=None)
    return cipher.encryptor().update(data)
