"""The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

A 16-bit one's complement sum is a sum modulo 65535, and Python computes it for a whole packet in
one call. In one's complement, 0 and 65535 are two forms of zero. The sum of bytes that are not
all zero is written as 65535, never as 0.
"""

from __future__ import annotations

from typing import Final

__all__ = ["has_valid_sum", "internet_checksum", "ones_complement_sum", "updated_checksum"]

_ONES: Final = 0xFFFF


def ones_complement_sum(data: bytes | bytearray | memoryview) -> int:
    """Return the one's complement sum of ``data`` modulo 65535, padded to whole 16-bit words."""
    value = int.from_bytes(data, "big")
    return (value << 8 if len(data) % 2 else value) % _ONES


def internet_checksum(data: bytes) -> int:
    """Return the checksum of ``data``, whose own checksum field must hold zeros (RFC 1071)."""
    remainder = ones_complement_sum(data)
    if remainder:
        return _ONES - remainder
    return 0 if any(data) else _ONES


def has_valid_sum(data: bytes) -> bool:
    """Tell whether ``data``, its checksum field included, sums up to all ones (RFC 1071)."""
    return ones_complement_sum(data) == 0 and any(data)


def updated_checksum(checksum: int, old: bytes, new: bytes) -> int:
    """Return a checksum after ``old`` became ``new``, both at an even offset (RFC 1624, eqn. 3).

    A wrong checksum stays wrong by the same amount, so the update does not hide damage.
    """
    total = (_ONES - checksum) - ones_complement_sum(old) + ones_complement_sum(new)
    # A covered header is never all zeros, so a sum of 0 is always written as 65535.
    return _ONES - (total % _ONES or _ONES)
