"""The key schedule of REKEY: an ephemeral X25519 exchange, chained to the replaced keys.

::

    secret      = HKDF-Extract(salt = chain, X25519(our key, their share))
    transcript  = SHA-256(label | suite | near | hop | OFFER | ANSWER with a zero tag)
    each output = HKDF-Expand(secret, label | purpose | transcript)

``chain`` comes from the onion's seed, later from the previous exchange. So a party without the
replaced keys cannot take part. The result also depends on an ephemeral key, so a seed that leaks
later does not reveal it (docs/formats/circuit-control.md).
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from overlay.apm.circuits import OnionSas
from overlay.apm.control import TAG_BYTES, RekeyAnswer, RekeyOffer, encode_control
from overlay.apm.keys import CHAIN_BYTES
from overlay.ipsec.suites import SUITES
from overlay.link.noise import diffie_hellman
from overlay.sensitive import SecretBytes

__all__ = ["EphemeralKey", "RekeySecrets"]

_LABEL: Final = b"overlay circuit rekey v1"


class EphemeralKey:
    """The X25519 key of one side for one exchange, deleted at its end."""

    __slots__ = ("_private", "share")

    def __init__(self, rng: Random) -> None:
        self._private = X25519PrivateKey.from_private_bytes(rng.randbytes(32))
        self.share = self._private.public_key().public_bytes_raw()

    def agree(
        self, replaced: OnionSas, offer: RekeyOffer, answer: RekeyAnswer, their_share: bytes
    ) -> RekeySecrets:
        """Derive the secrets that both sides of an exchange share.

        Args:
            replaced: SAs whose keys are replaced.
            offer: message of the source.
            answer: message of the hop; its tag is ignored.
            their_share: key share of the other side, from its message.

        Raises:
            NotAuthentic: their share is a point of small order, so it contributes no secret.
        """
        shared = diffie_hellman(self._private, their_share)
        secret = hmac.digest(replaced.chain.reveal(), shared, "sha256")
        transcript = _transcript(replaced, offer, answer)

        def output(purpose: bytes, size: int) -> bytes:
            info = _LABEL + b" " + purpose + transcript
            return HKDFExpand(SHA256(), size, info).derive(secret)

        keymat_bytes = SUITES[replaced.esp_suite].keymat_bytes
        return RekeySecrets(
            forward_keymat=SecretBytes(output(b"esp forward", keymat_bytes)),
            backward_keymat=SecretBytes(output(b"esp backward", keymat_bytes)),
            chain=SecretBytes(output(b"chain", CHAIN_BYTES)),
            answer_tag=output(b"answer", TAG_BYTES),
            switch_tag=output(b"switch", TAG_BYTES),
            switched_tag=output(b"switched", TAG_BYTES),
        )


def _transcript(sas: OnionSas, offer: RekeyOffer, answer: RekeyAnswer) -> bytes:
    """Return the hash of an exchange; fixed field sizes make the encoding unambiguous."""
    untagged = replace(answer, tag=bytes(TAG_BYTES))
    parts = (_LABEL, bytes((sas.esp_suite,)), sas.near, sas.hop)
    messages = (encode_control(offer), encode_control(untagged))
    return hashlib.sha256(b"".join(parts + messages)).digest()


@dataclass(frozen=True, slots=True)
class RekeySecrets:
    """The secrets of one exchange: key material, the next chain, and a tag for each proof."""

    forward_keymat: SecretBytes
    backward_keymat: SecretBytes
    chain: SecretBytes
    answer_tag: bytes
    switch_tag: bytes
    switched_tag: bytes

    def renew(self, replaced: OnionSas, offer: RekeyOffer) -> OnionSas:
        """Return the SAs that replace ``replaced``; the caller sets ``own_spis`` and limits."""
        return replace(
            replaced,
            forward_spi=offer.forward_spi,
            backward_spi=offer.backward_spi,
            forward_keymat=self.forward_keymat,
            backward_keymat=self.backward_keymat,
            chain=self.chain,
            generation=offer.generation,
            own_spis=(),
        )
