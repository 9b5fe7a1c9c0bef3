"""Derive the symmetric keys of one hop from the seed in its layer.

The source draws one seed per hop (``nesm_generate_sym_key``, paper, section 3). Source and hop
expand it with HKDF-Expand (RFC 5869, section 2.3), with a different label for each key.
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
    """The keys that follow from one seed; forward is away from the source.

    ``stream`` decrypts the rest of the onion signalling message at this hop. ``filler`` yields the
    slot that the hop appends. The two key materials are those of the onion SAs. ``chain`` is a
    secret that the first rekey needs (docs/decisions/0015).
    """

    stream: SecretBytes
    filler: SecretBytes
    forward_keymat: SecretBytes
    backward_keymat: SecretBytes
    chain: SecretBytes

    @classmethod
    def derive(cls, seed: SecretBytes, esp_suite: int) -> HopKeys:
        """Derive the keys from a seed, for an ESP suite.

        The number of the suite is part of the labels, so two ciphers never have the same key.

        Raises:
            KeyError: ``esp_suite`` is unknown; callers check it first.
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
        """Return the ``size`` bytes that this hop appends after it has removed its own slot."""
        return apply_stream(self.filler, bytes(size))
