"""The symmetric keys of one hop, all derived from the seed in its layer.

The source draws one seed per hop (``nesm_generate_sym_key``, paper section 3); source and
hop expand it with HKDF-Expand (RFC 5869, section 2.3) under one label per purpose.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from overlay.apm.crypto import apply_stream
from overlay.ipsec.suites import SUITES
from overlay.sensitive import SecretBytes

__all__ = ["CHAIN_BYTES", "SEED_BYTES", "HopKeys", "nesm_generate_sym_key"]

SEED_BYTES: Final = 32
CHAIN_BYTES: Final = 32

_STREAM_LABEL: Final = b"overlay nesm v1 stream"
_FILLER_LABEL: Final = b"overlay nesm v1 filler"
_FORWARD_LABEL: Final = b"overlay nesm v1 esp forward"
_BACKWARD_LABEL: Final = b"overlay nesm v1 esp backward"
_CHAIN_LABEL: Final = b"overlay nesm v1 rekey chain"


def nesm_generate_sym_key(rng: Random) -> SecretBytes:
    """Draw the 32-byte seed of one hop's symmetric keys."""
    return SecretBytes(rng.randbytes(SEED_BYTES))


def _expand(seed: SecretBytes, label: bytes, size: int) -> SecretBytes:
    return SecretBytes(HKDFExpand(SHA256(), size, label).derive(seed.reveal()))


@dataclass(frozen=True, slots=True)
class HopKeys:
    """What one seed yields; forward is away from the source.

    ``stream`` decrypts the rest of the onion signalling message at this hop, ``filler``
    makes the slot that the hop appends, the two key materials are those of the onion SAs,
    and ``chain`` is what the first exchange of new keys must know (docs/decisions/0015).
    """

    stream: SecretBytes
    filler: SecretBytes
    forward_keymat: SecretBytes
    backward_keymat: SecretBytes
    chain: SecretBytes

    @classmethod
    def derive(cls, seed: SecretBytes, esp_suite: int) -> HopKeys:
        """Expand a seed for an ESP suite.

        The suite's number is part of the labels, so that one seed never keys two ciphers.

        Raises:
            KeyError: ``esp_suite`` is not a known one (callers check it first).
        """
        keymat_bytes = SUITES[esp_suite].keymat_bytes
        suite_label = bytes((esp_suite,))
        return cls(
            stream=_expand(seed, _STREAM_LABEL, 32),
            filler=_expand(seed, _FILLER_LABEL, 32),
            forward_keymat=_expand(seed, _FORWARD_LABEL + suite_label, keymat_bytes),
            backward_keymat=_expand(seed, _BACKWARD_LABEL + suite_label, keymat_bytes),
            chain=_expand(seed, _CHAIN_LABEL, CHAIN_BYTES),
        )

    def filler_slot(self, size: int) -> bytes:
        """Return the ``size`` bytes that this hop appends after shifting the slots."""
        return apply_stream(self.filler, bytes(size))
