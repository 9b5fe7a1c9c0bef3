"""Read the counters of packets that the kernel's IPsec dropped."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from overlay.ipsec.interface import Drop

__all__ = ["kernel_statistics"]

_STATISTICS: Final = Path("/proc/thread-self/net/xfrm_stat")


def kernel_statistics() -> dict[Drop, int]:
    """Return the counters of this network namespace; an empty result if the kernel has none."""
    known = {drop.value: drop for drop in Drop}
    try:
        lines = [line.split() for line in _STATISTICS.read_text().splitlines()]
    except OSError:
        return {}
    return {known[name]: int(count) for name, count in lines if name in known}
