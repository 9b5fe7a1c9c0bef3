"""Random streams: one per purpose, each determined by the run's seed and a label.

New code that needs randomness uses a new label, so it does not change the draws of other code.
Therefore two scenarios that differ in one setting stay comparable.
"""

from __future__ import annotations

import hashlib
from random import Random

__all__ = ["Streams"]


class Streams:
    """Derive generators from a seed, without the global ``random`` and without ``hash()``."""

    __slots__ = ("seed",)

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def stream(self, *labels: str | int) -> Random:
        """Return a generator that is the same for the same seed and labels, on every machine."""
        return Random(self.number(*labels))

    def number(self, *labels: str | int) -> int:
        """Return a number of 256 bits that depends on the seed, the labels and their order."""
        text = "\0".join([str(self.seed), *map(str, labels)])
        return int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")
