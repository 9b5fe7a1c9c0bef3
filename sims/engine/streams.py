"""Random streams: one per purpose, each a function of the run's seed and a label alone.

A new consumer of randomness takes a new label and moves nobody else's draws, so two scenarios
that differ in one point stay comparable in all others.
"""

from __future__ import annotations

import hashlib
from random import Random

__all__ = ["Streams"]


class Streams:
    """Derives generators from a seed; never the global ``random``, never ``hash()``."""

    __slots__ = ("seed",)

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def stream(self, *labels: str | int) -> Random:
        """Return a generator that is the same for the same seed and labels, on every machine."""
        return Random(self.number(*labels))

    def number(self, *labels: str | int) -> int:
        """Return 256 bits that depend on the seed and the labels, and on their order."""
        text = "\0".join([str(self.seed), *map(str, labels)])
        return int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")
