"""The event digest: a SHA-256 over all deliveries and other events, in order.

If two runs have the same digest, the same datagrams were delivered between the same nodes at the
same simulated times. The record of a delivery is ``time (float64) | from (u32) | to (u32) |
kind (u8) | size (u16)``, little-endian. Other events, such as starts of nodes and ends of
lookups, are text lines. Contents are not part of the digest, so that a run with encoded messages
can be compared with a run with message values.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final

__all__ = ["EventDigest"]

_DELIVERY: Final = struct.Struct("<dIIBH")
_FLUSH_BYTES: Final = 1 << 16


class EventDigest:
    """Collect records and hash them in large pieces."""

    __slots__ = ("_hash", "_pending")

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._pending = bytearray()

    def delivery(self, when: float, source: int, to: int, kind: int, size: int) -> None:
        """Record the delivery of one datagram."""
        self._pending += _DELIVERY.pack(when, source, to, kind, size)
        if len(self._pending) > _FLUSH_BYTES:
            self._flush()

    def note(self, when: float, what: str) -> None:
        """Record another event as text."""
        self._pending += struct.pack("<d", when) + what.encode() + b"\n"

    def hexdigest(self) -> str:
        """Return the digest of all records so far."""
        self._flush()
        return self._hash.hexdigest()

    def _flush(self) -> None:
        self._hash.update(self._pending)
        self._pending.clear()
