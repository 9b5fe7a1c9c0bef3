"""The event digest: one SHA-256 over everything that was delivered, in order.

Two runs with the same digest saw the same datagrams travel between the same nodes at the
same simulated times. A delivery enters as ``time (float64) | from (u32) | to (u32) |
kind (u8) | size (u16)``, little-endian; what else happened (nodes coming and going, lookups
ending) as a text line. Contents do not enter, so a run that encodes every message
and one that passes values along can be compared.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final

__all__ = ["EventDigest"]

_DELIVERY: Final = struct.Struct("<dIIBH")
_FLUSH_BYTES: Final = 1 << 16


class EventDigest:
    """Collects records and hashes them in large pieces."""

    __slots__ = ("_hash", "_pending")

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._pending = bytearray()

    def delivery(self, when: float, source: int, to: int, kind: int, size: int) -> None:
        """Record one datagram that arrived."""
        self._pending += _DELIVERY.pack(when, source, to, kind, size)
        if len(self._pending) > _FLUSH_BYTES:
            self._flush()

    def note(self, when: float, what: str) -> None:
        """Record another event in words."""
        self._pending += struct.pack("<d", when) + what.encode() + b"\n"

    def hexdigest(self) -> str:
        """Return the digest of all that was recorded so far."""
        self._flush()
        return self._hash.hexdigest()

    def _flush(self) -> None:
        self._hash.update(self._pending)
        self._pending.clear()
