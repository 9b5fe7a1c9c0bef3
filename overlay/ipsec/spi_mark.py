"""A secret property of a node's link SPIs, which a packet filter can test without a table.

The receiver of an SA chooses its SPI (RFC 4301, section 4.4.2.1). A node draws all SPIs of its
inbound link SAs so that ``(SPI * multiplier mod 2**32) >> 20`` is its tag. A stranger's datagram
with a random SPI has this property once in 4,096 times. It is no proof: an observer of a link
knows SPIs that have it, and only the ICV proves anything.

SPIs of onion SAs must not have the property: the hops of a circuit see them, and two hops that
compare them would learn that one node chose both.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final, Self

from overlay.ipsec.interface import MIN_SPI

__all__ = ["SPI_MARK_SHIFT", "SpiMark"]

_TAG_BITS: Final = 12
"""Leaves 2**20 SPIs; a node has at most some thousand links."""

SPI_MARK_SHIFT: Final = 32 - _TAG_BITS
"""How far a product is shifted to the right, in bits, to be compared with the tag."""

_SPACE: Final = 1 << 32


@dataclass(frozen=True, slots=True)
class SpiMark:
    """The property: an odd ``multiplier`` below 2**32 and a ``tag`` from 1 to 4,095.

    The tag is not 0, so that the non-ESP marker (RFC 3948) never has the property.
    """

    multiplier: int
    tag: int

    @classmethod
    def draw(cls, rng: Random) -> Self:
        """Return a new property."""
        return cls(rng.getrandbits(32) | 1, rng.randrange(1, 1 << _TAG_BITS))

    def draw_spi(self, rng: Random) -> int:
        """Return a random SPI that has the property and is not reserved."""
        inverse = pow(self.multiplier, -1, _SPACE)
        while True:
            product = self.tag << SPI_MARK_SHIFT | rng.getrandbits(SPI_MARK_SHIFT)
            spi = product * inverse % _SPACE
            if spi >= MIN_SPI:
                return spi

    def is_on(self, spi: int) -> bool:
        """Tell whether an SPI has the property."""
        return spi * self.multiplier % _SPACE >> SPI_MARK_SHIFT == self.tag
