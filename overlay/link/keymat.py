"""Derive the keys of two link SAs from a finished Noise handshake (HKDF, RFC 5869).

Each direction has its own Noise key, and each use of that key has its own label::

    keymat = HKDF(key of the direction, salt = handshake hash, info = label | suite | SPIs)

The SPIs in ``info`` are the initiator's inbound SPI and then the responder's. They bind the keys
to this pair. The handshake has authenticated them already.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, replace
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from overlay.ipsec.interface import Spi
from overlay.ipsec.suites import SUITES
from overlay.link.events import LinkKeys
from overlay.link.handshake import GEOMETRY, MessageType, Notice
from overlay.link.noise import SplitKeys
from overlay.sensitive import SecretBytes

__all__ = ["PairSecrets", "derive_pair", "is_authentic_notice", "make_notice"]

_ESP_LABEL: Final = b"overlay link esp v1"
_NOTICE_LABEL: Final = b"overlay link notice v1"
_COOKIE_LABEL: Final = b"overlay link pair cookie v1"
_NOTICE_KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class PairSecrets:
    """All keys of one pair of SAs, as one side sees them.

    ``notice_out`` authenticates the notices that this side sends, ``notice_in`` the peer's.
    ``cookie`` is the same on both sides. A later initiation to the same peer may use it in place
    of a cookie, because no other node can compute it.
    """

    keys: LinkKeys
    notice_out: SecretBytes
    notice_in: SecretBytes
    cookie: SecretBytes


def derive_pair(
    split: SplitKeys, *, suite: int, initiator_spi: Spi, responder_spi: Spi, initiator: bool
) -> PairSecrets:
    """Derive one side's keys; ``initiator`` tells which side.

    Args:
        split: the finished handshake.
        suite: number of the agreed ESP suite.
        initiator_spi: the SPI on which the initiator receives.
        responder_spi: the SPI on which the responder receives.
        initiator: whether these keys are for the initiator.
    """
    info = bytes((suite,)) + initiator_spi.to_bytes(4, "big") + responder_spi.to_bytes(4, "big")
    size = SUITES[suite].keymat_bytes

    def expand(key: SecretBytes, label: bytes, length: int) -> SecretBytes:
        derived = HKDF(SHA256(), length, split.handshake_hash, label + info).derive(key.reveal())
        return SecretBytes(derived)

    cookie = expand(split.initiator_to_responder, _COOKIE_LABEL, _NOTICE_KEY_BYTES)
    outbound, inbound = split.initiator_to_responder, split.responder_to_initiator
    outbound_spi, inbound_spi = responder_spi, initiator_spi
    if not initiator:
        outbound, inbound = inbound, outbound
        outbound_spi, inbound_spi = inbound_spi, outbound_spi
    keys = LinkKeys(
        suite=suite,
        inbound_spi=inbound_spi,
        inbound_keymat=expand(inbound, _ESP_LABEL, size),
        outbound_spi=outbound_spi,
        outbound_keymat=expand(outbound, _ESP_LABEL, size),
    )
    return PairSecrets(
        keys=keys,
        notice_out=expand(outbound, _NOTICE_LABEL, _NOTICE_KEY_BYTES),
        notice_in=expand(inbound, _NOTICE_LABEL, _NOTICE_KEY_BYTES),
        cookie=cookie,
    )


def make_notice(kind: MessageType, secrets: PairSecrets, token: bytes | None = None) -> Notice:
    """Return a notice about this pair for the peer; without a token its field is zero."""
    unsigned = Notice(kind, secrets.keys.outbound_spi, token or bytes(GEOMETRY.token), b"")
    return replace(unsigned, tag=_notice_tag(unsigned, secrets.notice_out))


def is_authentic_notice(notice: Notice, secrets: PairSecrets) -> bool:
    """Tell whether the peer of this pair made ``notice``, which names its inbound SPI."""
    expected = _notice_tag(notice, secrets.notice_in)
    return hmac.compare_digest(notice.tag, expected)


def _notice_tag(notice: Notice, key: SecretBytes) -> bytes:
    return hmac.digest(key.reveal(), notice.authenticated, "sha256")[: GEOMETRY.mac]
