"""What the experiment measures: its cells, and the figure that each belongs to.

The paper shows round-trip times in Figures 7 to 10 and jitter in 11 to 14. We take its
ciphers in the order in which it names them, one figure each. What the paper could not know,
the AEADs, follows as 15 to 18: AES-GCM with both key sizes shares one figure for each metric,
ChaCha20-Poly1305 has another.
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
"""Bytes of the IP packet, header included, before any tunnel or fragmentation."""

TUNNELS: Final = (0, 1, 2, 3, 4)


class MeasuredQuantity(enum.Enum):
    """What is measured; both in milliseconds."""

    RTT = "rtt"
    JITTER = "jitter"


@dataclass(frozen=True, slots=True)
class Cipher:
    """One way to protect the onion SAs; ``suite`` is the number in overlay.ipsec.suites."""

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
"""By name, in the order of the figures."""


@dataclass(frozen=True, slots=True)
class PaperFigure:
    """One figure: a panel for each cipher, in each a curve for each number of tunnels."""

    number: int
    metric: MeasuredQuantity
    ciphers: tuple[str, ...]

    @property
    def file_name(self) -> str:
        """Without extension."""
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

    Cells without tunnels know no cipher. They are measured for each cipher nevertheless, like
    any other cell: how far these repetitions of one and the same differ is how far one may
    trust a difference.
    """

    cipher: str
    tunnels: int
    size: int
    metric: str

    @property
    def figure(self) -> int:
        """The number of the figure that shows it."""
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
    """Return all cells of these, both metrics each."""
    return [
        Cell(cipher, count, size, metric.value)
        for metric in MeasuredQuantity
        for cipher in ciphers
        for count in tunnels
        for size in sizes
    ]
