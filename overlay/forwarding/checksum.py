"""The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

A 16-bit one's complement sum is a sum modulo 65535, and Python computes that of a whole
packet in one call. Only the two zeros need care: the sum of bytes that are not all zero is
65535, never 0.
"""

from __future__ import annotations

from typing import Final

__all__ = ["has_valid_sum", "internet_checksum", "updated_checksum"]

_ONES: Final = 0xFFFF


def _remainder(data: bytes) -> int:
    """Return the one's complement sum of ``data`` modulo 65535, padded to whole 16-bit words."""
    value = int.from_bytes(data, "big")
    return (value << 8 if len(data) % 2 else value) % _ONES


def internet_checksum(data: bytes) -> int:
    """Return the checksum of ``data``, whose own checksum field must hold zeros (RFC 1071)."""
    remainder = _remainder(data)
    if remainder:
        return _ONES - remainder
    return 0 if any(data) else _ONES


def has_valid_sum(data: bytes) -> bool:
    """Tell whether ``data``, its checksum field included, sums up to all ones (RFC 1071)."""
    return _remainder(data) == 0 and any(data)


def updated_checksum(checksum: int, old: bytes, new: bytes) -> int:
    """Return a checksum after ``old`` became ``new``, both at an even offset (RFC 1624, eqn. 3).

    A checksum that was wrong stays wrong by the same amount: errors are carried on, never
    mended by accident.
    """
    total = (_ONES - checksum) - _remainder(old) + _remainder(new)
    # A covered header is never all zeros, so that its sum 0 is always written as 65535.
    return _ONES - (total % _ONES or _ONES)
