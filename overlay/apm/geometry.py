"""Compute the sizes of the onion signalling message (NESM) for each onion suite.

::

    version (1) | suite (1) | slot 0 | slot 1 | ... | slot K-1

    slot  =  encapsulated key (32 or 1,120) | sealed layer (layer + 16)

All other modules of the package take sizes of the message from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from overlay.apm.crypto import ONION_SUITES
from overlay.hop_limit import MAX_HOPS

__all__ = ["GEOMETRIES", "LAYER_BYTES", "NESM_VERSION", "NesmGeometry"]

NESM_VERSION: Final = 1

LAYER_BYTES: Final = 160
"""The fields of a layer (150 bytes, ``overlay.apm.layer``) and 10 reserved bytes."""


@dataclass(frozen=True, slots=True)
class NesmGeometry:
    """The sizes of one onion suite in bytes, and the number of slots."""

    suite: int
    slots: int
    encapsulated_key_bytes: int
    layer_bytes: int
    tag_bytes: int

    @property
    def header_bytes(self) -> int:
        """Size of version and suite."""
        return 2

    @property
    def slot_bytes(self) -> int:
        """Size of the sealed layer of one hop with its encapsulated key."""
        return self.encapsulated_key_bytes + self.layer_bytes + self.tag_bytes

    @property
    def rest_bytes(self) -> int:
        """Size of all slots after the first."""
        return (self.slots - 1) * self.slot_bytes

    @property
    def message_bytes(self) -> int:
        """Size of the whole message, which does not depend on the number of hops."""
        return self.header_bytes + self.slots * self.slot_bytes

    @property
    def header(self) -> bytes:
        """The first two bytes of every message of this suite."""
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
