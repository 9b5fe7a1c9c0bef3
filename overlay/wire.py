"""Read values from bytes of the network, with bounds.

All functions here raise only :class:`~overlay.errors.Malformed`.
"""

from __future__ import annotations

import struct
from typing import Any

import msgpack

from overlay.errors import Malformed

__all__ = ["ByteReader", "pack_canonical", "unpack_bounded"]


class ByteReader:
    """Read fixed-size big-endian fields from the front of a byte string."""

    __slots__ = ("_data", "_offset")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._offset = 0

    @property
    def remaining(self) -> int:
        """How many bytes have not been read."""
        return len(self._data) - self._offset

    def take(self, size: int) -> bytes:
        """Return the next ``size`` bytes."""
        end = self._offset + size
        if size < 0 or end > len(self._data):
            raise Malformed("the message is shorter than its fields")
        taken = self._data[self._offset : end]
        self._offset = end
        return taken

    def u8(self) -> int:
        """Return the next byte as an unsigned integer."""
        return self.take(1)[0]

    def u16(self) -> int:
        """Return the next two bytes as an unsigned integer."""
        return int.from_bytes(self.take(2), "big")

    def u32(self) -> int:
        """Return the next four bytes as an unsigned integer."""
        return int.from_bytes(self.take(4), "big")

    def u64(self) -> int:
        """Return the next eight bytes as an unsigned integer."""
        return int.from_bytes(self.take(8), "big")

    def end(self) -> None:
        """Raise an error if any bytes are left."""
        if self.remaining:
            raise Malformed("the message is longer than its fields")


def pack_canonical(value: object) -> bytes:
    """Encode lists, ints, bytes, strings, booleans and None as msgpack, shortest form."""
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def unpack_bounded(data: bytes, *, max_bytes: int) -> Any:  # noqa: ANN401 - parsed by the caller
    """Decode one msgpack value of at most ``max_bytes``, without maps or extensions.

    The encoding must be the canonical one of :func:`pack_canonical`. So a signed value has exactly
    one encoding, and other nodes cannot make a second message from it.

    Raises:
        Malformed: the bytes are no such value.
    """
    if len(data) > max_bytes:
        raise Malformed("the message is larger than its bound")
    try:
        value = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            use_list=True,
            max_str_len=max_bytes,
            max_bin_len=max_bytes,
            max_array_len=max_bytes,
            max_map_len=0,
            max_ext_len=0,
        )
        canonical = pack_canonical(value) == data
    except (ValueError, TypeError, OverflowError, RecursionError, struct.error) as error:
        raise Malformed("the message is not valid msgpack") from error
    except msgpack.UnpackException as error:
        raise Malformed("the message is not valid msgpack") from error
    if not canonical:
        raise Malformed("the message is not in canonical form")
    return value
