"""Fragment identifications that say nothing of the host that chose them.

A host draws the IP identification from counters or hashes that betray its system, its
other traffic and, across circuits, that two of them start at the same host. The value
cannot simply be drawn anew: all fragments of one datagram need the same one, and it must
not repeat early (RFC 6864, section 4.1; RFC 7739). So it goes through a permutation under
a key of this node alone: equal stays equal, different stays different, nothing else is left.
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
    """Permute the ``bits`` (16 or 32) wide ``value`` under ``key``, apart for each ``flow``.

    ``flow`` is what the identification must be unique for: source and destination, and the
    protocol in IPv4.
    """
    half = bits // 2
    mask = (1 << half) - 1
    left, right = value >> half, value & mask
    for number in range(_ROUNDS):
        block = bytes((number, bits)) + right.to_bytes(2, "big") + flow
        digest = hashlib.blake2s(block, digest_size=2, key=key.reveal()).digest()
        left, right = right, left ^ (int.from_bytes(digest, "big") & mask)
    return left << half | right
