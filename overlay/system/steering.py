"""Split one UDP port into several queues, so that a flood of requests does not delay ESP.

::

    UDP port ──> classic BPF program ──┬─ ESP of our links ──────────> first socket   (index 0)
                 of the port's group   ├─ answers that we wait for ──> second socket  (index 1)
                                       ├─ requests with a cookie ────> third socket   (index 2)
                                       └─ requests without, garbage ─> fourth socket  (index 3)

Linux delivers a datagram to one socket of the group that shares a port (``SO_REUSEPORT``). A
program chooses the socket (``SO_ATTACH_REUSEPORT_CBPF``, Linux 4.5). Each socket has a separate
queue, so a flood that fills the fourth queue does not affect the others. The program recognises
numbers of this node by their marks (:mod:`overlay.ipsec.spi_mark`), so it rarely changes. If a link
is attacked, :func:`steer` moves its doubtful ESP packets to the fourth queue.

The choice is a hint. The kernel aggregates datagrams of one flow (GRO), and the program sees only
the first of them. So each socket may receive any kind, and readers must sort datagrams themselves.
A filter (``SO_ATTACH_FILTER``) on all sockets except the first drops garbage. These sockets must
not receive aggregates, so that the filter sees each datagram.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from overlay.errors import BackendError
from overlay.system.port_program import (
    DatagramKind,
    PortForms,
    Suspect,
    filter_program,
    steering_program,
)

__all__ = ["SplitPort", "split_port", "steer"]

_SO_ATTACH_REUSEPORT_CBPF: Final = 51
_SO_ATTACH_FILTER: Final = 26
"""From Linux's asm-generic/socket.h; the socket module of Python 3.11 lacks them."""

_INSTRUCTION_BYTES: Final = 8

_PROGRAM: Final = struct.Struct("@HP")
"""``struct sock_fprog``: number of instructions, address of the first."""

_PLACES: Final = {
    DatagramKind.ESP: 0,
    DatagramKind.EXPECTED: 1,
    DatagramKind.RETURNING: 2,
    DatagramKind.STRANGER: 3,
    DatagramKind.GARBAGE: 3,
}


class SplitPort(NamedTuple):
    """The sockets that share the port with the first one."""

    expected: socket.socket
    returning: socket.socket
    strangers: socket.socket


def split_port(
    first: socket.socket, join: Callable[[], socket.socket], forms: PortForms
) -> SplitPort | None:
    """Return three more sockets on the port of ``first`` that get all but ESP of our links.

    ``first`` must have been bound without ``SO_REUSEPORT``, so that another node cannot start on
    the same port. The option is set afterwards.

    Args:
        first: a bound UDP socket; it keeps ESP.
        join: binds another socket to the same endpoint with ``SO_REUSEPORT``.
        forms: the datagrams that this node accepts.

    Returns:
        The sockets, or None if this kernel does not support it. Then ``first`` gets everything.
    """
    joined: list[socket.socket] = []
    try:
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        for _ in SplitPort._fields:
            joined.append(join())
            _attach(joined[-1], _SO_ATTACH_FILTER, filter_program(forms))
        steer(first, forms, ())
    except (OSError, BackendError):
        for each in joined:
            each.close()
        with contextlib.suppress(OSError):
            first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
        return None
    return SplitPort(*joined)


def steer(member: socket.socket, forms: PortForms, suspects: Sequence[Suspect]) -> None:
    """Set the program by which the kernel chooses a socket of the group of ``member``.

    Raises:
        OSError: this kernel has no such programs.
    """
    _attach(member, _SO_ATTACH_REUSEPORT_CBPF, steering_program(forms, _PLACES, suspects))


def _attach(member: socket.socket, option: int, code: bytes) -> None:
    kept = ctypes.create_string_buffer(code, len(code))  # the kernel reads it during the call
    pointer = _PROGRAM.pack(len(code) // _INSTRUCTION_BYTES, ctypes.addressof(kept))
    member.setsockopt(socket.SOL_SOCKET, option, pointer)
