"""A kernel program of eight instructions: look a packet's route up again, under another mark.

Linux can hang a program on a route (LWTUNNEL_ENCAP_BPF). It sees packets on their way to the
route's device, after they were cut into fragments of the route's MTU::

    mark is M already ──> drop       a packet that came back would go round for ever
    else ──> mark := M ──> route again, with IPsec policies, and send

No library is needed for it: one call of bpf(2). Sources: Linux uapi ``linux/bpf.h`` (instruction
format, ``bpf_attr``, ``__sk_buff``), and ``bpf_xmit`` in ``net/core/lwt_bpf.c``.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from typing import Final

from overlay.errors import BackendError
from overlay.system.failures import refused

__all__ = ["load_reroute_program", "reroute_instructions"]

_SYSTEM_CALLS: Final = {
    "x86_64": 321,
    **dict.fromkeys(("aarch64", "riscv64", "loongarch64"), 280),
    **dict.fromkeys(("i386", "i686"), 357),
    **dict.fromkeys(("armv6l", "armv7l", "armv8l"), 386),
    **dict.fromkeys(("ppc64", "ppc64le"), 361),
    "s390x": 351,
}
"""Number of bpf(2), which the C library does not wrap, by machine."""

_BPF_PROG_LOAD: Final = 5
_BPF_PROG_TYPE_LWT_XMIT: Final = 12
_NAME: Final = b"overlay_reroute"

_BPF_DROP: Final = 2
_BPF_LWT_REROUTE: Final = 128
_MARK_OFFSET: Final = 8
"""Of ``mark`` in ``__sk_buff``."""

_LOAD_WORD: Final = 0x61
_STORE_WORD: Final = 0x63
_SET: Final = 0xB7
_JUMP_IF_DIFFERENT: Final = 0x55
_EXIT: Final = 0x95

_MISSING_RIGHTS: Final = (
    "run the node as root of the host itself, or give it CAP_BPF beside CAP_NET_ADMIN; "
    "inside `unshare -Ur` no right to it can be had"
)
_MISSING_KERNEL: Final = "use a kernel with CONFIG_BPF_SYSCALL and CONFIG_LWTUNNEL_BPF"


def reroute_instructions(mark: int) -> bytes:
    """Return the program: eight bytes for each instruction, in the host's byte order.

    Register 0 is the verdict, 1 the packet (``__sk_buff``), 2 the mark. ``mark`` is below 2**31.
    """
    return b"".join(
        (
            _instruction(_LOAD_WORD, to=2, by=1, offset=_MARK_OFFSET),
            _instruction(_JUMP_IF_DIFFERENT, to=2, offset=2, value=mark),
            _instruction(_SET, to=0, value=_BPF_DROP),
            _instruction(_EXIT),
            _instruction(_SET, to=2, value=mark),
            _instruction(_STORE_WORD, to=1, by=2, offset=_MARK_OFFSET),
            _instruction(_SET, to=0, value=_BPF_LWT_REROUTE),
            _instruction(_EXIT),
        )
    )


def load_reroute_program(mark: int) -> int:
    """Load the program and return its descriptor; routes keep it after the caller closed that.

    Raises:
        BackendError: no permission, or the kernel knows no such programs.
    """
    number = _SYSTEM_CALLS.get(platform.machine())
    if number is None:
        raise BackendError(
            f"loading a packet program failed (bpf is not known on {platform.machine()}): "
            'set [ipsec] backend = "userspace" for programs that send large datagrams.'
        )
    instructions = ctypes.create_string_buffer(reroute_instructions(mark))
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
    """Return code (1), both registers (1: two nibbles), offset (2), value (4)."""
    registers = to | by << 4 if sys.byteorder == "little" else to << 4 | by
    return struct.pack("=BBhi", code, registers, offset, value)
