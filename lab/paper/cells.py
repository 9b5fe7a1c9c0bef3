"""The cells that the experiment measures, and the figure of each cell.

The paper shows round-trip times in Figures 7 to 10 and jitter in 11 to 14. We assume one figure for
each of its ciphers, in the order in which it names them. The AEADs, which the paper does not
measure, are Figures 15 to 18. AES-GCM with both key sizes shares one figure for each metric, and
ChaCha20-Poly1305 has another one.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

__all__ = [
    "CIPHERS",
    "FIGURES",
    "SIZES",
    "TUNNELS",
    "Cell",
    "Cipher",
    "MeasuredQuantity",
    "PaperFigure",
    "cells",
]

SIZES: Final = (64, 128, 256, 512, 1024, 2048, 4096)
"""Sizes in bytes of the IP packet, including its header, before tunnels and fragmentation."""

TUNNELS: Final = (0, 1, 2, 3, 4)


class MeasuredQuantity(enum.Enum):
    """The two measured quantities, both in milliseconds."""

    RTT = "rtt"
    JITTER = "jitter"


@dataclass(frozen=True, slots=True)
class Cipher:
    """One cipher of the onion SAs; ``suite`` is its number in overlay.ipsec.suites."""

    name: str
    label: str
    suite: int


CIPHERS: Final = {
    cipher.name: cipher
    for cipher in (
        Cipher("3des-cbc", "3DES-CBC, HMAC-SHA-1", 11),
        Cipher("aes-128-cbc", "AES-128-CBC, HMAC-SHA-1", 8),
        Cipher("aes-192-cbc", "AES-192-CBC, HMAC-SHA-1", 9),
        Cipher("aes-256-cbc", "AES-256-CBC, HMAC-SHA-1", 10),
        Cipher("aes-128-gcm", "AES-128-GCM", 1),
        Cipher("aes-256-gcm", "AES-256-GCM", 3),
        Cipher("chacha20-poly1305", "ChaCha20-Poly1305", 4),
    )
}
"""All ciphers by name, in the order of the figures."""


@dataclass(frozen=True, slots=True)
class PaperFigure:
    """One figure, with a panel for each cipher, and in each panel several curves."""

    number: int
    metric: MeasuredQuantity
    ciphers: tuple[str, ...]

    @property
    def file_name(self) -> str:
        """Name of the file without its extension."""
        kinds = {cipher.rpartition("-")[2] if len(self.ciphers) > 1 else cipher
                 for cipher in self.ciphers}  # fmt: skip
        shown = f"aes-{kinds.pop()}" if len(self.ciphers) > 1 else kinds.pop()
        return f"figure-{self.number:02d}-{self.metric.value}-{shown}"


_PANELS: Final = (
    ("3des-cbc",),
    ("aes-128-cbc",),
    ("aes-192-cbc",),
    ("aes-256-cbc",),
)
_NEW_PANELS: Final = (("aes-128-gcm", "aes-256-gcm"), ("chacha20-poly1305",))

FIGURES: Final = (
    *(PaperFigure(7 + index, MeasuredQuantity.RTT, names) for index, names in enumerate(_PANELS)),
    *(
        PaperFigure(11 + index, MeasuredQuantity.JITTER, names)
        for index, names in enumerate(_PANELS)
    ),
    *(
        PaperFigure(15 + index, MeasuredQuantity.RTT, names)
        for index, names in enumerate(_NEW_PANELS)
    ),
    *(
        PaperFigure(17 + index, MeasuredQuantity.JITTER, names)
        for index, names in enumerate(_NEW_PANELS)
    ),
)


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One point of one curve.

    Cells without tunnels have no cipher. They are nevertheless measured once for each cipher, like
    any other cell. The differences between these repetitions show how large a difference between
    other cells must be to mean something.
    """

    cipher: str
    tunnels: int
    size: int
    metric: str

    @property
    def figure(self) -> int:
        """The number of the figure that shows this cell."""
        return next(
            figure.number
            for figure in FIGURES
            if figure.metric.value == self.metric and self.cipher in figure.ciphers
        )


def cells(
    *,
    ciphers: tuple[str, ...] = tuple(CIPHERS),
    tunnels: tuple[int, ...] = TUNNELS,
    sizes: tuple[int, ...] = SIZES,
) -> list[Cell]:
    """Return all combinations of these as cells, for both metrics."""
    return [
        Cell(cipher, count, size, metric.value)
        for metric in MeasuredQuantity
        for cipher in ciphers
        for count in tunnels
        for size in sizes
    ]
