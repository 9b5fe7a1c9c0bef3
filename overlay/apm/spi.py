"""Security Parameter Indexes (SPIs) that this node draws, all different."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random
from typing import Final

from overlay.errors import LimitReached
from overlay.ipsec.interface import MIN_SPI, Spi

__all__ = ["SpiAllocator"]

_MAX_SPI: Final = 0xFFFFFFFF
_MAX_LIVE: Final = 1 << 20
"""Far more than links and circuits can use. A draw collides with a probability below 1/4096."""


class SpiAllocator:
    """Draw random SPIs that are not in use, for links and for this node's own circuits.

    It owns the set of SPIs in use, at most 2**20. SPIs that other nodes chose for their circuits
    through this node are not in the set (docs/decisions/0010).
    """

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._live: set[int] = set()

    def __len__(self) -> int:
        """Return how many SPIs are in use."""
        return len(self._live)

    def __contains__(self, spi: int) -> bool:
        """Tell whether an SPI is in use."""
        return spi in self._live

    def allocate(self, draw: Callable[[], int] | None = None) -> Spi:
        """Return a fresh SPI: the paper's ``nitcm_generate_spi()``.

        SPIs are random, because an observer of a link sees its SPIs. From a counter it could learn
        how many circuits and links a node has made.

        Args:
            draw: returns candidates from 256 to 2**32 - 1, far more different ones than are in
                use; None draws from all of them.

        Raises:
            LimitReached: 2**20 SPIs are in use.
        """
        if len(self._live) >= _MAX_LIVE:
            raise LimitReached("too many security parameter indexes are in use")
        draw = draw or partial(self._rng.randint, MIN_SPI, _MAX_SPI)
        while True:
            spi = draw()
            if spi not in self._live:
                self._live.add(spi)
                return Spi(spi)

    def release(self, spi: Spi) -> None:
        """Release an SPI. Nothing happens if it is not in use."""
        self._live.discard(spi)
