"""The ids of all nodes on line, in order. Measures use it; no node has this knowledge."""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterator
from random import Random
from typing import Final

__all__ = ["ID_BITS", "KeySpace"]

ID_BITS: Final = 160


class KeySpace:
    """The ids of the nodes on line, as sorted integers."""

    __slots__ = ("_ids",)

    def __init__(self) -> None:
        self._ids: list[int] = []

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, number: object) -> bool:
        if not isinstance(number, int):
            return False
        index = bisect_left(self._ids, number)
        return index < len(self._ids) and self._ids[index] == number

    def __iter__(self) -> Iterator[int]:
        return iter(self._ids)

    def add(self, number: int) -> None:
        """Add a node that came on line."""
        insort(self._ids, number)

    def discard(self, number: int) -> None:
        """Remove a node that went off line; it is no error if it is absent."""
        index = bisect_left(self._ids, number)
        if index < len(self._ids) and self._ids[index] == number:
            del self._ids[index]

    def with_prefix(self, number: int, bits: int) -> range:
        """Return the index range of the ids that share the first ``bits`` bits of ``number``."""
        rest = ID_BITS - bits
        first = (number >> rest) << rest
        low = bisect_left(self._ids, first)
        return range(low, bisect_left(self._ids, first + (1 << rest), lo=low))

    def closest(self, target: int, count: int) -> list[int]:
        """Return the ``count`` ids nearest to ``target`` by XOR, nearest first."""
        low, high = 0, ID_BITS
        while low < high:  # the longest prefix of the target that at least ``count`` ids share
            middle = (low + high + 1) // 2
            if len(self.with_prefix(target, middle)) >= count:
                low = middle
            else:
                high = middle - 1
        found = self.with_prefix(target, low)
        near = self._ids[found.start : found.stop]
        return heapq.nsmallest(count, near, key=target.__xor__)

    def bucket(self, own: int, bit: int, count: int, rng: Random) -> list[int]:
        """Return up to ``count`` random ids that share exactly ``bit`` bits with ``own``."""
        other = own ^ (1 << (ID_BITS - 1 - bit))
        found = self.with_prefix(other, bit + 1)
        chosen = found if len(found) <= count else sorted(rng.sample(found, count))
        return [self._ids[index] for index in chosen]

    def draw(self, rng: Random) -> int:
        """Return the id of a random node on line.

        Raises:
            IndexError: no node is on line.
        """
        return self._ids[rng.randrange(len(self._ids))] if self._ids else _nobody()


def _nobody() -> int:
    raise IndexError("no node lives")
