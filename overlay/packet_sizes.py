"""Sizes of inner packets, for source and exit (docs/decisions/0054)."""

from __future__ import annotations

from typing import Final

__all__ = ["INNER_MTU", "SEGMENT_MTU"]

INNER_MTU: Final = 1300
"""Bytes of the largest packet that a program may send into a path without fragments.

QUIC sends 1,252 bytes of UDP payload over IPv6 (40 + 8 bytes of headers), and RFC 9000, section
14.1, needs 1,200. IPv6 itself needs 1,280 (RFC 8200, section 5).
"""

SEGMENT_MTU: Final = 1038
"""Bytes of the largest packet that needs no fragments on any link of 1,500 bytes.

This holds for five hops with AES-GCM over UDP and IPv6. TCP packets have at most this size, so
that bulk transfers never need two datagrams for one packet.
"""
