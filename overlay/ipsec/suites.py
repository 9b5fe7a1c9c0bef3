"""The ESP suites by number: key sizes, field sizes, and how much one key may protect.

====== ========================= ============== ====================================
number name                      key material   standard
====== ========================= ============== ====================================
1-3    ``aes-{128,192,256}-gcm`` key, salt (4)  RFC 4106, ICV of 16 bytes
4      ``chacha20-poly1305``     key, salt (4)  RFC 7634
5-7    ``aes-...-cbc-sha256``    keys 16-32, 32 RFC 3602, RFC 4868 (HMAC-SHA-256-128)
8-10   ``aes-...-cbc-sha1``      keys 16-32, 20 RFC 3602, RFC 2404 (HMAC-SHA-1-96)
11     ``3des-cbc-sha1``         keys 24, 20    RFC 2451, RFC 2404; experiments only
====== ========================= ============== ====================================

This project assigns the numbers. They are part of Mix descriptors and onion layers, so a number
must never be used again for another suite.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

__all__ = ["DEFAULT_SUITE", "SUITES", "CipherKind", "Suite"]

_BLOCK_128_MAX_BYTES: Final = 2**40
"""2**36 blocks of 16 bytes: an attacker's advantage stays below 2**-56 (CFRG's AEAD limits)."""

_BLOCK_64_MAX_BYTES: Final = 2**23
"""2**20 blocks of 8 bytes, the bound of NIST SP 800-67 revision 2 for one 3DES key bundle."""

_UNLIMITED: Final = 2**64


class CipherKind(enum.Enum):
    """The kind of transform that protects the payload."""

    AES_GCM = "aes-gcm"
    CHACHA20_POLY1305 = "chacha20-poly1305"
    AES_CBC_HMAC = "aes-cbc-hmac"
    TRIPLE_DES_CBC_HMAC = "3des-cbc-hmac"


@dataclass(frozen=True, slots=True)
class Suite:
    """The algorithms that protect the packets of an SA, and their sizes in bytes.

    ``salt_bytes`` is the size of the nonce's implicit part (AEAD only). ``auth_key_bytes`` and
    ``digest`` describe the HMAC; they are 0 and empty for an AEAD. ``block_bytes`` is 1 for a
    cipher in a stream mode.

    A key ends after ``max_payload_bytes`` of sealed payload, or after ``max_forgeries`` packets
    that failed authentication. For AEADs the latter is taken from RFC 9001, section 6.6; for an
    HMAC of n bits it is 2**(n-57). A backend accepts a suite with ``experiment`` set only if it
    was created with that option.
    """

    number: int
    name: str
    kind: CipherKind
    key_bytes: int
    salt_bytes: int
    auth_key_bytes: int
    digest: str
    iv_bytes: int
    icv_bytes: int
    block_bytes: int
    max_payload_bytes: int
    max_forgeries: int
    experiment: bool = False

    @property
    def keymat_bytes(self) -> int:
        """Size of the key material of one SA: key and salt, or both keys, in this order."""
        return self.key_bytes + self.salt_bytes + self.auth_key_bytes

    @property
    def alignment(self) -> int:
        """The plaintext is padded to a multiple of this size (RFC 4303, section 2.4)."""
        return max(self.block_bytes, 4)

    @property
    def smallest_packet(self) -> int:
        """The size of the smallest ESP packet, from SPI to ICV."""
        return 8 + self.iv_bytes + self.alignment + self.icv_bytes


def _aead(number: int, name: str, kind: CipherKind, key_bytes: int) -> Suite:
    is_gcm = kind is CipherKind.AES_GCM
    return Suite(
        number,
        name,
        kind,
        key_bytes,
        salt_bytes=4,
        auth_key_bytes=0,
        digest="",
        iv_bytes=8,
        icv_bytes=16,
        block_bytes=1,
        max_payload_bytes=_BLOCK_128_MAX_BYTES if is_gcm else _UNLIMITED,
        max_forgeries=2**52 if is_gcm else 2**36,
    )


def _aes_cbc(number: int, key_bytes: int, digest: str) -> Suite:
    is_sha256 = digest == "sha256"
    return Suite(
        number,
        f"aes-{key_bytes * 8}-cbc-{digest}",
        CipherKind.AES_CBC_HMAC,
        key_bytes,
        salt_bytes=0,
        auth_key_bytes=32 if is_sha256 else 20,
        digest=digest,
        iv_bytes=16,
        icv_bytes=16 if is_sha256 else 12,
        block_bytes=16,
        max_payload_bytes=_BLOCK_128_MAX_BYTES,
        max_forgeries=_UNLIMITED if is_sha256 else 2**39,
    )


_TRIPLE_DES: Final = Suite(
    11,
    "3des-cbc-sha1",
    CipherKind.TRIPLE_DES_CBC_HMAC,
    key_bytes=24,
    salt_bytes=0,
    auth_key_bytes=20,
    digest="sha1",
    iv_bytes=8,
    icv_bytes=12,
    block_bytes=8,
    max_payload_bytes=_BLOCK_64_MAX_BYTES,
    max_forgeries=2**39,
    experiment=True,
)

SUITES: Final[Mapping[int, Suite]] = MappingProxyType(
    {
        suite.number: suite
        for suite in (
            _aead(1, "aes-128-gcm", CipherKind.AES_GCM, 16),
            _aead(2, "aes-192-gcm", CipherKind.AES_GCM, 24),
            _aead(3, "aes-256-gcm", CipherKind.AES_GCM, 32),
            _aead(4, "chacha20-poly1305", CipherKind.CHACHA20_POLY1305, 32),
            *(_aes_cbc(5 + i, size, "sha256") for i, size in enumerate((16, 24, 32))),
            *(_aes_cbc(8 + i, size, "sha1") for i, size in enumerate((16, 24, 32))),
            _TRIPLE_DES,
        )
    }
)
"""Every suite by its number."""

DEFAULT_SUITE: Final = 3
"""AES-256-GCM: fast on CPUs with AES-NI, and 256 bits also resist Grover's algorithm."""
