"""Read the capabilities of this process (capabilities(7))."""

from __future__ import annotations

from pathlib import Path
from typing import Final

__all__ = ["CAP_NET_ADMIN", "CAP_NET_RAW", "effective_capabilities"]

# Bit numbers of Linux's uapi capability.h.
CAP_NET_ADMIN: Final = 12
CAP_NET_RAW: Final = 13

_STATUS: Final = Path("/proc/thread-self/status")


def effective_capabilities() -> frozenset[int]:
    """Return the numbers of the effective capabilities; none if /proc is not readable.

    They refer to the user namespace of this process. The root user of a user namespace has all
    capabilities, but only for that namespace.
    """
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return frozenset()
    return parse_capabilities(lines)


def parse_capabilities(lines: list[str]) -> frozenset[int]:
    """Read the line ``CapEff:`` (hexadecimal digits) of a process's status."""
    for line in lines:
        name, _, value = line.partition(":")
        if name == "CapEff":
            bits = int(value, 16)
            return frozenset(bit for bit in range(bits.bit_length()) if bits >> bit & 1)
    return frozenset()
