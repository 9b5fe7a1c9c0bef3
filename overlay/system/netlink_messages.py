"""Netlink's message format, for the few questions that need no library.

::

    nlmsghdr (16): length (4) type (2) flags (2) sequence (4) port (4) | body
    attribute:     length (2) type (2) value, padded to 4

Format: Linux uapi ``linux/netlink.h``, in the host's byte order.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import Final

__all__ = [
    "ACKNOWLEDGE",
    "DUMP",
    "RECEIVE_BYTES",
    "acknowledged_error",
    "answers",
    "attribute",
    "attributes",
    "message",
    "nested",
]

ACKNOWLEDGE: Final = 0x04
DUMP: Final = 0x300
RECEIVE_BYTES: Final = 1 << 17

_REQUEST: Final = 0x01
_ERROR: Final = 2
_DONE: Final = 3
_NESTED: Final = 0x8000
_TYPE_MASK: Final = 0x3FFF
_HEADER: Final = struct.Struct("=IHHII")


def message(kind: int, flags: int, body: bytes) -> bytes:
    """Return one request."""
    return _HEADER.pack(_HEADER.size + len(body), kind, flags | _REQUEST, 1, 0) + body


def attribute(kind: int, value: bytes) -> bytes:
    """Return one attribute, padded."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def nested(kind: int, value: bytes) -> bytes:
    """Return an attribute that holds attributes."""
    return attribute(kind | _NESTED, value)


def attributes(data: bytes) -> dict[int, bytes]:
    """Return the attributes at the front of ``data`` by type; stop at the first broken one."""
    found: dict[int, bytes] = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if length < 4:
            break
        found[kind & _TYPE_MASK] = data[4:length]
        data = data[(length + 3) & ~3 :]
    return found


def answers(netlink: socket.socket) -> Iterator[bytes]:
    """Yield the body of each message of a dump.

    Raises:
        OSError: the kernel refused the dump.
    """
    while True:
        data = netlink.recv(RECEIVE_BYTES)
        while len(data) >= _HEADER.size:
            length, kind, *_ = _HEADER.unpack_from(data)
            if kind == _DONE or length < _HEADER.size:
                return
            body = data[_HEADER.size : length]
            if kind == _ERROR:
                raise OSError(-_error_number(body), "the kernel refused a netlink dump")
            yield body
            data = data[(length + 3) & ~3 :]


def acknowledged_error(netlink: socket.socket) -> int:
    """Return the errno of the acknowledgement that comes next; 0 for success."""
    return -_error_number(netlink.recv(RECEIVE_BYTES)[_HEADER.size :])


def _error_number(body: bytes) -> int:
    return int(struct.unpack_from("=i", body)[0])
