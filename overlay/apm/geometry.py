"""Sizes and offsets of the onion signalling message (NESM), computed once per onion suite.

::

    version (1) | suite (1) | slot 0 | slot 1 | ... | slot K-1

    slot  =  encapsulated key (32 or 1,120) | sealed layer (layer + 16)

Nothing else of the package knows a size by number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from overlay.apm.crypto import ONION_SUITES
from overlay.apm.settings import MAX_HOPS

__all__ = ["GEOMETRIES", "LAYER_BYTES", "NESM_VERSION", "NesmGeometry"]

NESM_VERSION: Final = 1

LAYER_BYTES: Final = 160
"""Fields of a layer (150 bytes, ``overlay.apm.layer``) and ten reserved ones."""


@dataclass(frozen=True, slots=True)
class NesmGeometry:
    """The frozen geometry of one onion suite; sizes in bytes."""

    suite: int
    slots: int
    encapsulated_key_bytes: int
    layer_bytes: int
    tag_bytes: int

    @property
    def header_bytes(self) -> int:
        """Version and suite."""
        return 2

    @property
    def slot_bytes(self) -> int:
        """One hop's sealed layer with its encapsulated key."""
        return self.encapsulated_key_bytes + self.layer_bytes + self.tag_bytes

    @property
    def rest_bytes(self) -> int:
        """Everything after the first slot."""
        return (self.slots - 1) * self.slot_bytes

    @property
    def message_bytes(self) -> int:
        """The whole message, whatever the length of the path."""
        return self.header_bytes + self.slots * self.slot_bytes

    @property
    def header(self) -> bytes:
        """The two bytes with which every message of this suite starts."""
        return bytes((NESM_VERSION, self.suite))


GEOMETRIES: Final = {
    suite.number: NesmGeometry(
        suite=suite.number,
        slots=MAX_HOPS,
        encapsulated_key_bytes=suite.encapsulated_key_bytes,
        layer_bytes=LAYER_BYTES,
        tag_bytes=suite.tag_bytes,
    )
    for suite in ONION_SUITES.values()
}
"""The geometry of each onion suite, by its number."""
