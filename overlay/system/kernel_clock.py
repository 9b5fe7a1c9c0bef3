"""What the kernel believes of its own clock: whether anybody keeps it right, and how well."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from typing import Final

from overlay.system.failures import refused

__all__ = ["ClockState", "read_kernel_clock"]

_UNSYNCHRONISED: Final = 0x0040
"""STA_UNSYNC of Linux's uapi timex.h."""


@dataclass(frozen=True, slots=True)
class ClockState:
    """``error_s`` is the kernel's bound on the error in seconds, which grows by itself."""

    synchronised: bool
    error_s: float


class _Timex(ctypes.Structure):
    """``struct timex`` as far as it is read; the kernel writes 208 bytes on 64-bit machines."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("_rest", ctypes.c_char * 256),
    )


def read_kernel_clock() -> ClockState:
    """Ask the kernel (adjtimex(2) with no change wanted); whoever may do this.

    Raises:
        BackendError: it is forbidden here, as some containers do.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    timex = _Timex(modes=0)
    if libc.adjtimex(ctypes.byref(timex)) < 0:
        number = ctypes.get_errno()
        raise refused(
            "reading the state of the kernel's clock", OSError(number, os.strerror(number))
        )
    return ClockState(not timex.status & _UNSYNCHRONISED, timex.maxerror / 1e6)
