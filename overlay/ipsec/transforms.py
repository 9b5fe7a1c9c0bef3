"""Encrypt and authenticate the bytes from SPI to ICV with each suite (RFC 4303, section 2).

AEAD suites (RFC 4106, RFC 7634)::

    SPI (4) | sequence (4) | IV (8) | ciphertext | ICV (16)
    nonce = salt (4) | IV        associated data = SPI | sequence (4, or 8 with ESN)

CBC suites (RFC 3602 and the HMAC RFCs), encrypt-then-MAC::

    SPI (4) | sequence (4) | IV (8 or 16) | ciphertext | ICV (12 or 16)
    ICV = HMAC(SPI .. ciphertext | high half of the sequence number with ESN)

:mod:`overlay.ipsec.esp` handles padding, replay windows and limits.
"""

from __future__ import annotations

import hmac
import struct
from random import Random
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC

from overlay.ipsec.suites import CipherKind, Suite

__all__ = ["AeadTransform", "CbcHmacTransform", "Transform", "new_iv_mask", "new_transform"]

_LOW_32: Final = 0xFFFFFFFF
_pack_header: Final = struct.Struct(">II").pack
_pack_header_and_iv: Final = struct.Struct(">IIQ").pack
_pack_nonce: Final = struct.Struct(">4sQ").pack
_pack_esn_associated_data: Final = struct.Struct(">IQ").pack
_pack_high_half: Final = struct.Struct(">I").pack


class Transform(Protocol):
    """The interface that seals and opens the padded plaintext of one SA's packets."""

    def seal(self, sequence: int, plaintext: bytes) -> bytes:
        """Return the ESP packet, SPI to ICV, for a full sequence number (32 or 64 bits)."""
        ...

    def open(self, packet: bytes, offset: int, sequence: int) -> bytes | None:
        """Return the padded plaintext of the ESP packet at ``offset``; None if it is forged."""
        ...


class AeadTransform:
    """AES-GCM or ChaCha20-Poly1305.

    The IV is the sequence number XOR ``iv_mask``. Sequence numbers never repeat in an SA, so IVs
    do not repeat either. The mask is random: it hides the high half of the counter, and nonces
    differ even if the same key is installed twice (the kernel's ``seqiv`` does the same). The
    mask must stay the same for the whole life of an SA, because another one could repeat a nonce.
    """

    __slots__ = ("_decrypt", "_encrypt", "_esn", "_iv_mask", "_salt", "_spi")

    def __init__(self, suite: Suite, keymat: bytes, spi: int, iv_mask: int, *, esn: bool) -> None:
        cipher = AESGCM if suite.kind is CipherKind.AES_GCM else ChaCha20Poly1305
        aead = cipher(keymat[: suite.key_bytes])
        self._encrypt = aead.encrypt
        self._decrypt = aead.decrypt
        self._salt = keymat[suite.key_bytes :]
        self._spi = spi
        self._esn = esn
        self._iv_mask = iv_mask

    def seal(self, sequence: int, plaintext: bytes) -> bytes:
        """Return the ESP packet, SPI to ICV."""
        spi = self._spi
        iv = sequence ^ self._iv_mask
        header = _pack_header_and_iv(spi, sequence & _LOW_32, iv)
        associated = _pack_esn_associated_data(spi, sequence) if self._esn else header[:8]
        return header + self._encrypt(_pack_nonce(self._salt, iv), plaintext, associated)

    def open(self, packet: bytes, offset: int, sequence: int) -> bytes | None:
        """Return the padded plaintext; None if the ICV is wrong."""
        ciphertext = offset + 16
        if self._esn:
            associated = _pack_esn_associated_data(self._spi, sequence)
        else:
            associated = packet[offset : offset + 8]
        try:
            return self._decrypt(
                self._salt + packet[offset + 8 : ciphertext], packet[ciphertext:], associated
            )
        except InvalidTag:
            return None


class CbcHmacTransform:
    """AES or 3DES in CBC mode with a truncated HMAC.

    IVs are random, because CBC needs unpredictable IVs (RFC 3602, section 3).
    """

    __slots__ = ("_auth_key", "_cipher", "_esn", "_rng", "_spi", "_suite")

    def __init__(self, suite: Suite, keymat: bytes, spi: int, rng: Random, *, esn: bool) -> None:
        key = keymat[: suite.key_bytes]
        self._cipher = AES(key) if suite.kind is CipherKind.AES_CBC_HMAC else TripleDES(key)
        self._auth_key = keymat[suite.key_bytes :]
        self._suite = suite
        self._spi = spi
        self._rng = rng
        self._esn = esn

    def seal(self, sequence: int, plaintext: bytes) -> bytes:
        """Return the ESP packet, SPI to ICV."""
        iv = self._rng.randbytes(self._suite.iv_bytes)
        encryptor = Cipher(self._cipher, CBC(iv)).encryptor()
        protected = (
            _pack_header(self._spi, sequence & _LOW_32)
            + iv
            + encryptor.update(plaintext)
            + encryptor.finalize()
        )
        return protected + self._icv(protected, sequence)

    def open(self, packet: bytes, offset: int, sequence: int) -> bytes | None:
        """Return the padded plaintext; None if the ICV is wrong."""
        ciphertext = offset + 8 + self._suite.iv_bytes
        end = len(packet) - self._suite.icv_bytes
        protected = packet[offset:end]
        if not hmac.compare_digest(self._icv(protected, sequence), packet[end:]):
            return None
        # The cipher's block has the size of the IV, and finalize() fails on an incomplete block.
        if (end - ciphertext) % self._suite.iv_bytes:
            return None
        decryptor = Cipher(self._cipher, CBC(packet[offset + 8 : ciphertext])).decryptor()
        return decryptor.update(packet[ciphertext:end]) + decryptor.finalize()

    def _icv(self, protected: bytes, sequence: int) -> bytes:
        high = _pack_high_half(sequence >> 32) if self._esn else b""
        code = hmac.digest(self._auth_key, protected + high, self._suite.digest)
        return code[: self._suite.icv_bytes]


def new_iv_mask(suite: Suite, rng: Random) -> int:
    """Return the IV mask of a new outbound SA: 64 random bits for an AEAD, otherwise 0."""
    return rng.getrandbits(64) if suite.salt_bytes else 0


def new_transform(
    suite: Suite, keymat: bytes, spi: int, rng: Random, *, esn: bool, iv_mask: int = 0
) -> Transform:
    """Return the transform of one SA for its key material of ``suite.keymat_bytes`` bytes.

    To seal with an AEAD, pass the ``iv_mask`` of the SA (:func:`new_iv_mask`), each time the same.
    """
    if suite.salt_bytes:
        return AeadTransform(suite, keymat, spi, iv_mask, esn=esn)
    return CbcHmacTransform(suite, keymat, spi, rng, esn=esn)
