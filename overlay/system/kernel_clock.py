"""Read from the kernel whether its clock is synchronised, and the bound on its error."""

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
    """``error_s`` is the kernel's bound on the error in seconds, which grows without updates."""

    synchronised: bool
    error_s: float


class _Timex(ctypes.Structure):
    """The fields of ``struct timex`` that are read; the kernel writes 208 bytes (64-bit)."""

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
    """Return the state of the kernel's clock, by adjtimex(2) without a change; needs no rights.

    Raises:
        BackendError: the call is forbidden, as in some containers.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    timex = _Timex(modes=0)
    if libc.adjtimex(ctypes.byref(timex)) < 0:
        number = ctypes.get_errno()
        raise refused(
            "reading the state of the kernel's clock", OSError(number, os.strerror(number))
        )
    return ClockState(not timex.status & _UNSYNCHRONISED, timex.maxerror / 1e6)
