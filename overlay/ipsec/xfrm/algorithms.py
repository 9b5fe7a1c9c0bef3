"""Return the kernel's algorithms for each ESP suite.

=================== ============================== ======= ===============================
suites              attribute                      ICV     key in the attribute
=================== ============================== ======= ===============================
AES-GCM             rfc4106(gcm(aes))              128     key, salt (4 bytes)
ChaCha20-Poly1305   rfc7539esp(chacha20,poly1305)  128     key, salt (4 bytes)
AES-CBC             cbc(aes)                       -       key
3DES-CBC            cbc(des3_ede)                  -       key
HMAC-SHA-256-128    hmac(sha256)                   128     key (not the kernel's default, 96)
HMAC-SHA-1-96       hmac(sha1)                     96      key
=================== ============================== ======= ===============================

The ICV is in bits. Names: Linux ``net/xfrm/xfrm_algo.c``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from overlay.ipsec.suites import CipherKind, Suite
from overlay.sensitive import SecretBytes

__all__ = ["algorithm_attributes", "algorithm_names"]

_CIPHERS: Final[Mapping[CipherKind, str]] = {
    CipherKind.AES_GCM: "rfc4106(gcm(aes))",
    CipherKind.CHACHA20_POLY1305: "rfc7539esp(chacha20,poly1305)",
    CipherKind.AES_CBC_HMAC: "cbc(aes)",
    CipherKind.TRIPLE_DES_CBC_HMAC: "cbc(des3_ede)",
}


def algorithm_names(suite: Suite) -> tuple[str, ...]:
    """Return the kernel's names: the cipher's, then the HMAC's if there is one."""
    cipher = _CIPHERS[suite.kind]
    return (cipher, f"hmac({suite.digest})") if suite.digest else (cipher,)


def algorithm_attributes(suite: Suite, keymat: SecretBytes) -> list[tuple[str, dict[str, Any]]]:
    """Return the attributes of NEWSA that give an SA its algorithms and keys.

    The result contains the keys in the clear, so callers must not keep it after sending.
    """
    secret, names = keymat.reveal(), algorithm_names(suite)
    if not suite.digest:
        return [("XFRMA_ALG_AEAD", _algorithm(names[0], secret) | {"icv_len": suite.icv_bytes * 8})]
    cipher_key, auth_key = secret[: suite.key_bytes], secret[suite.key_bytes :]
    return [
        (
            "XFRMA_ALG_AUTH_TRUNC",
            _algorithm(names[1], auth_key) | {"icv_len": suite.icv_bytes * 8},
        ),
        ("XFRMA_ALG_CRYPT", _algorithm(names[0], cipher_key)),
    ]


def _algorithm(name: str, key: bytes) -> dict[str, Any]:
    return {"name": name.encode(), "key_len": len(key) * 8, "key": key}
