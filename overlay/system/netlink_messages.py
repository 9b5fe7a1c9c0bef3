"""Encode and decode netlink messages, for the few requests that need no library.

::

    nlmsghdr (16): length (4) type (2) flags (2) sequence (4) port (4) | body
    attribute:     length (2) type (2) value, padded to 4

Format: Linux uapi ``linux/netlink.h``, in the host's byte order.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Final

__all__ = [
    "ACKNOWLEDGE",
    "DUMP",
    "RECEIVE_BYTES",
    "acknowledged_error",
    "answers",
    "attribute",
    "attribute_list",
    "attributes",
    "exchange",
    "message",
    "messages",
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


def message(kind: int, flags: int, body: bytes, sequence: int = 1) -> bytes:
    """Return one request."""
    return _HEADER.pack(_HEADER.size + len(body), kind, flags | _REQUEST, sequence, 0) + body


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and body of each message in a datagram; stop at the first malformed one."""
    while len(data) >= _HEADER.size:
        length, kind, *_ = _HEADER.unpack_from(data)
        if not _HEADER.size <= length <= len(data):
            return
        yield kind, data[_HEADER.size : length]
        data = data[(length + 3) & ~3 :]


def attribute(kind: int, value: bytes) -> bytes:
    """Return one attribute, padded."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def nested(kind: int, value: bytes) -> bytes:
    """Return an attribute that contains attributes."""
    return attribute(kind | _NESTED, value)


def attributes(data: bytes) -> dict[int, bytes]:
    """Return the attributes in ``data`` by type; stop at the first malformed one."""
    return dict(attribute_list(data))


def attribute_list(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and value of each attribute, including repeated types."""
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if length < 4:
            return
        yield kind & _TYPE_MASK, data[4:length]
        data = data[(length + 3) & ~3 :]


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
    """Return the errno of the next acknowledgement; 0 for success."""
    return -_error_number(netlink.recv(RECEIVE_BYTES)[_HEADER.size :])


def exchange(
    netlink: socket.socket, kind: int, flags: int, bodies: Sequence[bytes], first: int
) -> list[int]:
    """Send requests of one type in one datagram; return the errno of each, 0 for success.

    Only the last request asks for an acknowledgement, which saves answers. The kernel answers
    earlier requests only if it refuses them.

    Args:
        netlink: a socket of the requests' netlink family.
        kind: type of the requests.
        flags: flags in addition to NLM_F_REQUEST.
        bodies: bodies of the requests, at least one.
        first: sequence number of the first request. It must be greater than all earlier ones, so
            that late answers to earlier requests are ignored.

    Raises:
        OSError: the socket failed; it is unknown which requests were carried out.
    """
    last = first + len(bodies) - 1
    netlink.send(
        b"".join(
            message(kind, flags | (ACKNOWLEDGE if sequence == last else 0), body, sequence)
            for sequence, body in enumerate(bodies, first)
        )
    )
    errors = [0] * len(bodies)
    while True:
        data = netlink.recv(RECEIVE_BYTES)
        while len(data) >= _HEADER.size:
            length, answer, _, sequence, _ = _HEADER.unpack_from(data)
            if answer == _ERROR and first <= sequence <= last:
                errors[sequence - first] = -_error_number(data[_HEADER.size :])
                if sequence == last:
                    return errors
            data = data[(max(length, _HEADER.size) + 3) & ~3 :]


def _error_number(body: bytes) -> int:
    return int(struct.unpack_from("=i", body)[0])
