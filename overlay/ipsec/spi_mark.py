"""Give the link SPIs of a node a secret property that a packet filter can test without a table.

The receiver of an SA chooses its SPI (RFC 4301, section 4.4.2.1). A node draws the SPIs of its
inbound link SAs so that ``(SPI * multiplier mod 2**32) >> 20`` equals its tag. Of datagrams with
random SPIs, one in 4,096 has this property. The property proves nothing, because an observer of a
link knows SPIs that have it. Only the ICV authenticates a packet.

SPIs of onion SAs must not be drawn with the property. The hops of a circuit see them, and two
hops that compare theirs could learn that the same node chose both.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final, Self

from overlay.ipsec.interface import MIN_SPI

__all__ = ["SPI_MARK_SHIFT", "SpiMark"]

_TAG_BITS: Final = 12
"""This leaves 2**20 SPIs, which is enough: a node has at most a few thousand links."""

SPI_MARK_SHIFT: Final = 32 - _TAG_BITS
"""Number of bits by which the product is shifted to the right to compare it with the tag."""

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
        """Return a new random property."""
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
