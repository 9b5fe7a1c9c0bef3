"""A second queue for one UDP port, so that garbage and control never stand before ESP.

::

    UDP port ──> classic BPF program ──┬─ ESP with a marked SPI ─> first socket    (index 0)
                 of the port's group   └─ everything else ───────> second socket   (index 1)

Linux delivers a datagram to one socket of the group that shares a port (``SO_REUSEPORT``), and
a program chooses which one (``SO_ATTACH_REUSEPORT_CBPF``, Linux 4.5). Each socket has a queue
of its own: a flood that fills the second one costs ESP no place. The program knows the SPIs of
this node by their mark (:mod:`overlay.ipsec.spi_mark`), so that it never has to change.

The choice is a hint, and nothing is dropped by it. The kernel aggregates datagrams of one flow
(GRO) and the program sees the first of them alone, so that each socket may receive any kind.
Their readers must sort them.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Final

from overlay.errors import BackendError
from overlay.ipsec.spi_mark import SPI_MARK_SHIFT, SpiMark

__all__ = ["split_port"]

_SO_ATTACH_REUSEPORT_CBPF: Final = 51
"""From Linux's asm-generic/socket.h; the socket module of Python 3.11 lacks it."""

_ESP_HEADER_BYTES: Final = 8

# From Linux's uapi filter.h: instruction classes, sizes and modes.
_LOAD_LENGTH: Final = 0x80
_LOAD_WORD: Final = 0x20
_MULTIPLY: Final = 0x24
_SHIFT_RIGHT: Final = 0x74
_JUMP_AT_LEAST: Final = 0x35
_JUMP_EQUAL: Final = 0x15
_RETURN: Final = 0x06

_INSTRUCTION: Final = struct.Struct("=HBBI")
"""``struct sock_filter``: code, jump if true, jump if false, constant."""

_PROGRAM: Final = struct.Struct("@HP")
"""``struct sock_fprog``: number of instructions, address of the first."""


def split_port(
    first: socket.socket, join: Callable[[], socket.socket], mark: SpiMark
) -> socket.socket | None:
    """Return a second socket on the port of ``first`` that gets all but ESP with a marked SPI.

    ``first`` must have been bound without ``SO_REUSEPORT``: this claims the port, so that
    another node fails to start on it. The option is set afterwards.

    Args:
        first: a bound UDP socket; it keeps ESP.
        join: binds another socket to the same endpoint with ``SO_REUSEPORT``.
        mark: what the SPIs of all inbound link SAs of this node have in common.

    Returns:
        The second socket, or None if this kernel does not support it. Then ``first`` gets all.
    """
    second: socket.socket | None = None
    try:
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        second = join()
        _attach(second, _steering_program(mark))
    except (OSError, BackendError):
        if second is not None:
            second.close()
        with contextlib.suppress(OSError):
            first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
        return None
    return second


def _steering_program(mark: SpiMark) -> tuple[tuple[int, int, int, int], ...]:
    return (
        (_LOAD_LENGTH, 0, 0, 0),  # of the payload: the UDP header has been pulled
        (_JUMP_AT_LEAST, 0, 5, _ESP_HEADER_BYTES),  # a load beyond the end would return 0
        (_LOAD_WORD, 0, 0, 0),  # the SPI, or the non-ESP marker
        (_MULTIPLY, 0, 0, mark.multiplier),
        (_SHIFT_RIGHT, 0, 0, SPI_MARK_SHIFT),
        (_JUMP_EQUAL, 0, 1, mark.tag),
        (_RETURN, 0, 0, 0),
        (_RETURN, 0, 0, 1),
    )


def _attach(member: socket.socket, program: Sequence[tuple[int, int, int, int]]) -> None:
    code = b"".join(_INSTRUCTION.pack(*each) for each in program)
    kept = ctypes.create_string_buffer(code, len(code))  # the kernel reads it during the call
    pointer = _PROGRAM.pack(len(program), ctypes.addressof(kept))
    member.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, pointer)
