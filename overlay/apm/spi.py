"""Security Parameter Indexes that this node draws, none twice at a time."""

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
"""Far above what the tables that hold SPIs allow; keeps a draw's chance to collide below 1/4096."""


class SpiAllocator:
    """Draw random SPIs that are not live: those of links and of this node's own circuits.

    Sole owner of the set of live SPIs; it holds at most 2**20 of them. What others chose for
    their circuits here does not belong to it (docs/decisions/0010).
    """

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._live: set[int] = set()

    def __len__(self) -> int:
        """Return how many SPIs are live."""
        return len(self._live)

    def allocate(self, draw: Callable[[], int] | None = None) -> Spi:
        """Return a fresh SPI: the paper's ``nitcm_generate_spi()``.

        Random rather than counted: an observer of a link sees link SPIs, and a counter
        would tell how many circuits and links a node has made.

        Args:
            draw: returns candidates from 256 to 2**32 - 1, of
                far more than there are live ones; None draws from all of these.

        Raises:
            LimitReached: 2**20 SPIs are live.
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
        """Give an SPI back; one that is not live is no error."""
        self._live.discard(spi)
