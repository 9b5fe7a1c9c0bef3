"""Replace fragment identifications by values that reveal nothing about the host.

A host takes the IP identification from counters or hashes. These reveal its operating system and
its other traffic, and also that two circuits start at the same host. A random value would not
work: all fragments of a datagram need the same value, and it must not repeat early (RFC 6864,
section 4.1; RFC 7739). So the value is permuted under a secret key of this node. Equal values stay
equal, different values stay different, and everything else is hidden.
"""

from __future__ import annotations

import hashlib
from typing import Final

from overlay.sensitive import SecretBytes

__all__ = ["IDENTIFICATION_KEY_BYTES", "permuted_identification"]

IDENTIFICATION_KEY_BYTES: Final = 16

_ROUNDS: Final = 4
"""Four Feistel rounds of a random function make a strong permutation (Luby, Rackoff 1988)."""


def permuted_identification(key: SecretBytes, value: int, bits: int, flow: bytes) -> int:
    """Return the permutation of an identification under a key.

    Args:
        key: secret of this node, ``IDENTIFICATION_KEY_BYTES`` long.
        value: identification that the host chose.
        bits: length of the identification, 16 (IPv4) or 32 (IPv6).
        flow: the scope in which an identification is unique: source and destination, and for
            IPv4 the protocol. Each flow has its own permutation.
    """
    half = bits // 2
    mask = (1 << half) - 1
    left, right = value >> half, value & mask
    for number in range(_ROUNDS):
        block = bytes((number, bits)) + right.to_bytes(2, "big") + flow
        digest = hashlib.blake2s(block, digest_size=2, key=key.reveal()).digest()
        left, right = right, left ^ (int.from_bytes(digest, "big") & mask)
    return left << half | right
