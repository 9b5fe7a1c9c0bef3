"""A node's self-certifying identity and the keys that are bound to it.

The identity is an Ed25519 key. ``NodeId`` and overlay address are hashes of its public half, so a
node without the key can claim neither of them. Two X25519 keys are bound to the identity by its
signature in the Mix descriptor. The *onion key* opens this node's layer of an onion. The *link key*
is the static key of the Noise IK link handshake. They are separate, because one key must not serve
two protocols.

Reasons: docs/decisions/0006.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from overlay.addresses import NODE_ID_BYTES, OVERLAY_PREFIX, NodeId, OverlayAddress
from overlay.errors import NotAuthentic
from overlay.sensitive import SecretBytes

__all__ = [
    "PUBLIC_KEY_BYTES",
    "SIGNATURE_BYTES",
    "LocalIdentity",
    "identity_cost_bits",
    "meets_cost",
    "node_id_of",
    "overlay_address_of",
    "verify_signature",
]

PUBLIC_KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64

_NODE_ID_LABEL: Final = b"overlay node id v1"
_OVERLAY_ADDRESS_LABEL: Final = b"overlay address v1"
_PUZZLE_LABEL: Final = b"overlay identity puzzle v1"


@lru_cache(maxsize=4096)
def node_id_of(identity_key: bytes) -> NodeId:
    """Return the NodeId of a 32-byte Ed25519 public key: the first 160 bits of a SHA-256.

    The results are cached, because it is called for every datagram, mostly for the same keys.
    """
    return NodeId(hashlib.sha256(_NODE_ID_LABEL + identity_key).digest()[:NODE_ID_BYTES])


def overlay_address_of(identity_key: bytes) -> OverlayAddress:
    """Return the overlay address of a 32-byte Ed25519 public key: the prefix and 96 hash bits."""
    digest = hashlib.sha256(_OVERLAY_ADDRESS_LABEL + identity_key).digest()
    return OverlayAddress(OVERLAY_PREFIX + digest[:12])


def identity_cost_bits(identity_key: bytes) -> int:
    """Return the cost of an identity in bits: about 2 to this power keys were tried to find it.

    This is the static puzzle of S/Kademlia (Baumgart and Mies 2007). The cost is the number of
    leading zero bits of a hash of the NodeId, which is itself a hash of the public key. Nothing is
    stored or sent for it, because it follows from the key.
    """
    digest = hashlib.sha256(_PUZZLE_LABEL + node_id_of(identity_key)).digest()
    return 8 * len(digest) - int.from_bytes(digest, "big").bit_length()


def meets_cost(identity_key: bytes, cost_bits: int) -> bool:
    """Tell whether an identity cost at least ``cost_bits``; 0 accepts every identity."""
    return cost_bits == 0 or identity_cost_bits(identity_key) >= cost_bits


def verify_signature(identity_key: bytes, signature: bytes, message: bytes) -> None:
    """Check an Ed25519 signature (RFC 8032).

    Raises:
        NotAuthentic: the signature, or the key itself, is not valid.
    """
    try:
        Ed25519PublicKey.from_public_bytes(identity_key).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise NotAuthentic("the signature does not match the identity key") from error


@dataclass(frozen=True, slots=True, eq=False)
class LocalIdentity:
    """This node's three private keys, each 32 raw bytes.

    The derived public values are computed once by :meth:`from_private_bytes`.
    """

    identity_private: SecretBytes
    onion_private: SecretBytes
    link_private: SecretBytes
    identity_key: bytes
    onion_key: bytes
    link_key: bytes
    node_id: NodeId
    overlay_address: OverlayAddress
    _signer: Ed25519PrivateKey

    @classmethod
    def from_private_bytes(cls, identity: bytes, onion: bytes, link: bytes) -> LocalIdentity:
        """Build an identity from three 32-byte private keys.

        Raises:
            ValueError: a key has another size.
        """
        signer = Ed25519PrivateKey.from_private_bytes(identity)
        identity_key = signer.public_key().public_bytes_raw()
        return cls(
            identity_private=SecretBytes(identity),
            onion_private=SecretBytes(onion),
            link_private=SecretBytes(link),
            identity_key=identity_key,
            onion_key=X25519PrivateKey.from_private_bytes(onion).public_key().public_bytes_raw(),
            link_key=X25519PrivateKey.from_private_bytes(link).public_key().public_bytes_raw(),
            node_id=node_id_of(identity_key),
            overlay_address=overlay_address_of(identity_key),
            _signer=signer,
        )

    @classmethod
    def generate(cls, rng: Random, cost_bits: int = 0) -> LocalIdentity:
        """Draw a new identity from ``rng`` that cost at least ``cost_bits``.

        It takes about 2 to the power of ``cost_bits`` attempts, some 40 microseconds each.
        """
        identity = rng.randbytes(32)
        while not meets_cost(_public_key_of(identity), cost_bits):
            identity = rng.randbytes(32)
        return cls.from_private_bytes(identity, rng.randbytes(32), rng.randbytes(32))

    def sign(self, message: bytes) -> bytes:
        """Sign ``message`` with the identity key; 64 bytes (RFC 8032).

        Callers begin ``message`` with a label of their own. So a signature for one purpose is not
        valid for another.
        """
        return self._signer.sign(message)


def _public_key_of(identity: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(identity).public_key().public_bytes_raw()
