"""Load a BPF program that sets another mark on a packet and looks up its route again.

Linux can attach a program to a route (LWTUNNEL_ENCAP_BPF). It processes packets before they reach
the route's device, after fragmentation to the route's MTU::

    mark is M already ──> drop       otherwise a packet that came back would loop forever
    else ──> mark := M ──> (make it atomic) ──> route again, with IPsec policies, and send
                │
                └─ (with the bit of large packets, if it is one)

One call of bpf(2) loads it, so no library is necessary. Sources: Linux uapi ``linux/bpf.h``
(instruction format, ``bpf_attr``, ``__sk_buff``), and ``bpf_xmit`` in ``net/core/lwt_bpf.c``.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct
import sys
from typing import Final

from overlay.errors import BackendError
from overlay.system.failures import refused
from overlay.system.marks import LARGE_MARK

__all__ = ["load_reroute_program", "reroute_instructions"]

_SYSTEM_CALLS: Final = {
    "x86_64": 321,
    **dict.fromkeys(("aarch64", "riscv64", "loongarch64"), 280),
    **dict.fromkeys(("i386", "i686"), 357),
    **dict.fromkeys(("armv6l", "armv7l", "armv8l"), 386),
    **dict.fromkeys(("ppc64", "ppc64le"), 361),
    "s390x": 351,
}
"""Number of the system call bpf(2) by machine; the C library has no wrapper for it."""

_BPF_PROG_LOAD: Final = 5
_BPF_PROG_TYPE_LWT_XMIT: Final = 12
_NAME: Final = b"overlay_reroute"

_BPF_DROP: Final = 2
_BPF_LWT_REROUTE: Final = 128
_LENGTH_OFFSET: Final = 0
"""Of ``len`` in ``__sk_buff``, as the next three."""
_MARK_OFFSET: Final = 8
"""Offset in bytes of ``mark`` in ``__sk_buff``; the next two are offsets there as well."""
_DATA_OFFSET: Final = 76
_DATA_END_OFFSET: Final = 80
_IPV4_HEADER_BYTES: Final = 20
_IPV4_PROTOCOL: Final = 9
_IPV6_NEXT_HEADER: Final = 6
_TCP: Final = 6

_LOAD_WORD: Final = 0x61
_LOAD_HALF: Final = 0x69
_LOAD_BYTE: Final = 0x71
_STORE_WORD: Final = 0x63
_STORE_HALF: Final = 0x6B
_SET: Final = 0xB7
_COPY: Final = 0xBF
_ADD: Final = 0x07
_ADD_REGISTER: Final = 0x0F
_AND: Final = 0x57
_SHIFT_RIGHT: Final = 0x77
_XOR: Final = 0xA7
_JUMP_IF_DIFFERENT: Final = 0x55
_JUMP_IF_GREATER: Final = 0x2D
_EXIT: Final = 0x95

_MISSING_RIGHTS: Final = (
    "run the node as root of the host itself, or give it CAP_BPF besides CAP_NET_ADMIN; "
    "`unshare -Ur` cannot give this right"
)
_MISSING_KERNEL: Final = "use a kernel with CONFIG_BPF_SYSCALL and CONFIG_LWTUNNEL_BPF"


def reroute_instructions(
    mark: int, *, atomic: bool = False, large_above: int | None = None
) -> bytes:
    """Return the program, with eight bytes per instruction in the host's byte order.

    Register 0 is the verdict, 1 the packet (``__sk_buff``), 2 the mark.

    Args:
        mark: below 2**31.
        atomic: give an IPv4 packet that is not a fragment the identification 0 and "don't
            fragment" (RFC 6864, section 4.1). It needs no fragmentation any more at this point.
        large_above: add ``LARGE_MARK`` to the mark of packets with more bytes. TCP packets do not
            get it. Their segments are smaller, but the program sees many of them as one packet.
    """
    return b"".join(
        (
            _instruction(_LOAD_WORD, to=2, by=1, offset=_MARK_OFFSET),
            *(() if large_above is None else (_instruction(_AND, to=2, value=~LARGE_MARK),)),
            _instruction(_JUMP_IF_DIFFERENT, to=2, offset=2, value=mark),
            _instruction(_SET, to=0, value=_BPF_DROP),
            _instruction(_EXIT),
            _instruction(_SET, to=2, value=mark),
            *(() if large_above is None else _large(mark, large_above)),
            _instruction(_STORE_WORD, to=1, by=2, offset=_MARK_OFFSET),
            *(_atomic_ipv4() if atomic else ()),
            _instruction(_SET, to=0, value=_BPF_LWT_REROUTE),
            _instruction(_EXIT),
        )
    )


def _large(mark: int, above: int) -> list[bytes]:
    """Return what changes the mark in register 2 if the packet is large and not of TCP.

    Register 3 is the size, 4 the header, 5 its end and then the IP version, 6 the protocol.
    """
    choice = [
        _instruction(_LOAD_BYTE, to=5, by=4),
        _instruction(_SHIFT_RIGHT, to=5, value=4),
        _instruction(_LOAD_BYTE, to=6, by=4, offset=_IPV4_PROTOCOL),
        _instruction(_JUMP_IF_DIFFERENT, to=5, offset=1, value=6),
        _instruction(_LOAD_BYTE, to=6, by=4, offset=_IPV6_NEXT_HEADER),
        _instruction(_SET, to=2, value=mark | LARGE_MARK),
        _instruction(_JUMP_IF_DIFFERENT, to=6, offset=1, value=_TCP),
        _instruction(_SET, to=2, value=mark),
    ]
    readable = [
        _instruction(_LOAD_WORD, to=4, by=1, offset=_DATA_OFFSET),
        _instruction(_LOAD_WORD, to=5, by=1, offset=_DATA_END_OFFSET),
        _instruction(_COPY, to=6, by=4),
        _instruction(_ADD, to=6, value=_IPV4_HEADER_BYTES),
        _instruction(_JUMP_IF_GREATER, to=6, by=5, offset=len(choice)),
    ]
    return [
        _instruction(_LOAD_WORD, to=3, by=1, offset=_LENGTH_OFFSET),
        _instruction(_SET, to=4, value=above + 1),
        _instruction(_JUMP_IF_GREATER, to=4, by=3, offset=len(readable) + len(choice)),
        *readable,
        *choice,
    ]


def _atomic_ipv4() -> list[bytes]:
    """Return code that rewrites bytes 4 to 8 of an IPv4 header and updates its checksum.

    Register 2 is the header, 5 flags and offset, 7 the identification, 8 the sum. One's
    complement sums do not depend on the byte order (RFC 1071), so words are not swapped.
    The checksum is updated by equation 3 of RFC 1624: ~(~sum + ~old + new).
    """
    dont_fragment, fragment = socket.htons(0x4000), socket.htons(0x3FFF)
    fold = [
        _instruction(_COPY, to=9, by=8),
        _instruction(_SHIFT_RIGHT, to=9, value=16),
        _instruction(_AND, to=8, value=0xFFFF),
        _instruction(_ADD_REGISTER, to=8, by=9),
    ]
    rewrite = [
        _instruction(_LOAD_HALF, to=7, by=2, offset=4),
        _instruction(_LOAD_HALF, to=8, by=2, offset=10),
        *(_instruction(_XOR, to=each, value=0xFFFF) for each in (5, 7, 8)),
        _instruction(_ADD_REGISTER, to=8, by=5),
        _instruction(_ADD_REGISTER, to=8, by=7),
        _instruction(_ADD, to=8, value=dont_fragment),
        *fold,
        *fold,  # twice, because the first fold may produce a carry
        _instruction(_XOR, to=8, value=0xFFFF),
        _instruction(_STORE_HALF, to=2, by=8, offset=10),
        _instruction(_SET, to=7, value=0),
        _instruction(_STORE_HALF, to=2, by=7, offset=4),
        _instruction(_SET, to=5, value=dont_fragment),
        _instruction(_STORE_HALF, to=2, by=5, offset=6),
    ]
    is_fragment = [
        _instruction(_LOAD_HALF, to=5, by=2, offset=6),
        _instruction(_COPY, to=7, by=5),
        _instruction(_AND, to=7, value=fragment),
        _instruction(_JUMP_IF_DIFFERENT, to=7, offset=len(rewrite), value=0),
    ]
    after = len(is_fragment) + len(rewrite)
    is_ipv4 = [
        _instruction(_LOAD_BYTE, to=5, by=2),
        _instruction(_SHIFT_RIGHT, to=5, value=4),
        _instruction(_JUMP_IF_DIFFERENT, to=5, offset=after, value=4),
    ]
    return [
        _instruction(_LOAD_WORD, to=2, by=1, offset=_DATA_OFFSET),
        _instruction(_LOAD_WORD, to=3, by=1, offset=_DATA_END_OFFSET),
        _instruction(_COPY, to=4, by=2),
        _instruction(_ADD, to=4, value=_IPV4_HEADER_BYTES),
        _instruction(_JUMP_IF_GREATER, to=4, by=3, offset=len(is_ipv4) + after),
        *is_ipv4,
        *is_fragment,
        *rewrite,
    ]


def load_reroute_program(mark: int, *, atomic: bool = False, large_above: int | None = None) -> int:
    """Load the program and return its descriptor; routes keep it after the descriptor is closed.

    The arguments are those of :func:`reroute_instructions`.

    Raises:
        BackendError: a permission is missing, or the kernel does not support such programs.
    """
    number = _SYSTEM_CALLS.get(platform.machine())
    if number is None:
        raise BackendError(
            f"loading a packet program failed (bpf is not known on {platform.machine()}): "
            'set [ipsec] backend = "userspace" for programs that send large datagrams.'
        )
    program = reroute_instructions(mark, atomic=atomic, large_above=large_above)
    instructions = ctypes.create_string_buffer(program)
    license_name = ctypes.create_string_buffer(b"")
    attributes = struct.pack(
        "=IIQQIIQII16s",
        _BPF_PROG_TYPE_LWT_XMIT,
        len(instructions) // 8,
        ctypes.addressof(instructions),
        ctypes.addressof(license_name),
        *(0, 0, 0, 0, 0),  # no log of the verifier; any kernel version; no flags
        _NAME,
    )
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    descriptor = libc.syscall(
        ctypes.c_long(number), ctypes.c_long(_BPF_PROG_LOAD), attributes, len(attributes)
    )
    if descriptor < 0:
        raise _load_error(ctypes.get_errno())
    return int(descriptor)


def _load_error(number: int) -> BackendError:
    remedy = _MISSING_RIGHTS if number in (errno.EPERM, errno.EACCES) else _MISSING_KERNEL
    return refused("loading a packet program", OSError(number, os.strerror(number)), remedy)


def _instruction(code: int, *, to: int = 0, by: int = 0, offset: int = 0, value: int = 0) -> bytes:
    """Return one instruction: code (1), two registers (1, as nibbles), offset (2), value (4)."""
    registers = to | by << 4 if sys.byteorder == "little" else to << 4 | by
    return struct.pack("=BBhi", code, registers, offset, value)
