"""Encode and decode netlink messages, for the few requests that need no library.

::

    nlmsghdr (16): length (4) type (2) flags (2) sequence (4) port (4) | body
    attribute:     length (2) type (2) value, padded to 4

Format: Linux uapi ``linux/netlink.h``, in the host's byte order.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

__all__ = [
    "ACKNOWLEDGE",
    "DONE",
    "DUMP",
    "ERROR",
    "HEADER_BYTES",
    "RECEIVE_BYTES",
    "Frame",
    "acknowledged_error",
    "answers",
    "attribute",
    "attribute_list",
    "attributes",
    "error_number",
    "exchange",
    "frames",
    "message",
    "messages",
    "nested",
]

ACKNOWLEDGE: Final = 0x04
DUMP: Final = 0x300
RECEIVE_BYTES: Final = 1 << 17

DONE: Final = 3
ERROR: Final = 2
HEADER_BYTES: Final = 16

_REQUEST: Final = 0x01
_NESTED: Final = 0x8000
_TYPE_MASK: Final = 0x3FFF
_HEADER: Final = struct.Struct("=IHHII")


def message(kind: int, flags: int, body: bytes, sequence: int = 1) -> bytes:
    """Return one request."""
    return _HEADER.pack(HEADER_BYTES + len(body), kind, flags | _REQUEST, sequence, 0) + body


class Frame(NamedTuple):
    """Header and place of one message: its bytes are ``datagram[start:end]``."""

    kind: int
    flags: int
    sequence: int
    start: int
    end: int

    @property
    def body(self) -> int:
        """Index of the first byte after the header."""
        return self.start + HEADER_BYTES


def frames(datagram: bytes) -> Iterator[Frame]:
    """Yield the place of each message in a datagram; stop at the first malformed one."""
    start = 0
    while start + HEADER_BYTES <= len(datagram):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(datagram, start)
        if not HEADER_BYTES <= length <= len(datagram) - start:
            return
        yield Frame(kind, flags, sequence, start, start + length)
        start += (length + 3) & ~3


def messages(datagram: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and body of each message in a datagram; stop at the first malformed one."""
    for frame in frames(datagram):
        yield frame.kind, datagram[frame.body : frame.end]


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
        found = list(messages(netlink.recv(RECEIVE_BYTES)))
        if not found:
            raise OSError(errno.EBADMSG, "the kernel sent a malformed netlink dump")
        for kind, body in found:
            if kind == DONE:
                return
            if kind == ERROR:
                raise OSError(error_number(body), "the kernel refused a netlink dump")
            yield body


def acknowledged_error(netlink: socket.socket) -> int:
    """Return the errno of the next acknowledgement; 0 for success."""
    return error_number(netlink.recv(RECEIVE_BYTES), HEADER_BYTES)


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
        for frame in frames(data):
            if frame.kind == ERROR and first <= frame.sequence <= last:
                errors[frame.sequence - first] = error_number(data, frame.body)
                if frame.sequence == last:
                    return errors


def error_number(data: bytes, offset: int = 0) -> int:
    """Return the errno of an acknowledgement whose body begins at ``offset``; 0 for success."""
    return -int(struct.unpack_from("=i", data, offset)[0])
