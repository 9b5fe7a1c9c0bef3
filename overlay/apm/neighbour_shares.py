"""Limit the table entries of each neighbour: shares by identity, and by address of its link."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from functools import lru_cache
from typing import Generic, TypeVar

from overlay.addresses import OverlayAddress
from overlay.shares import Group, Groups, Shares

__all__ = ["GroupsOf", "NeighbourShares", "no_groups"]

K = TypeVar("K", bound=Hashable)

GroupsOf = Callable[[OverlayAddress], Groups]
"""Returns the groups of the address at the other end of a neighbour's link."""


def no_groups(neighbour: OverlayAddress) -> Groups:  # noqa: ARG001 - a GroupsOf
    """Return no groups, so that a neighbour is counted only by its identity."""
    return ()


class NeighbourShares(Generic[K]):
    """The shares of neighbours in one table of circuits, onions or messages.

    An entry keeps the groups with which it was added, so it can be discarded after its link is
    closed.
    """

    def __init__(self, places: int, per_neighbour: int, groups: GroupsOf) -> None:
        """Create an empty table.

        Args:
            places: largest number of entries.
            per_neighbour: largest number of entries of one identity.
            groups: returns the groups of the address of a neighbour's link.
        """
        self._shares: Shares[K] = Shares(places)
        self._per_neighbour = per_neighbour
        self._groups = groups

    def __len__(self) -> int:
        return len(self._shares)

    def __contains__(self, key: object) -> bool:
        return key in self._shares

    def admits(self, neighbour: OverlayAddress) -> bool:
        """Tell whether one more entry of this neighbour may be added."""
        return self._shares.admits(self._of(neighbour))

    def add(self, key: K, neighbour: OverlayAddress) -> None:
        """Record an entry that was admitted."""
        self._shares.add(key, self._of(neighbour))

    def discard(self, key: K) -> None:
        """Remove an entry, if there is one with this key."""
        self._shares.discard(key)

    def _of(self, neighbour: OverlayAddress) -> Groups:
        return _with_identity(neighbour, self._per_neighbour, self._groups(neighbour))


@lru_cache(maxsize=4096)  # so that the entries of one neighbour share one object
def _with_identity(neighbour: OverlayAddress, most: int, groups: Groups) -> Groups:
    return (Group(neighbour, math.inf, most), *groups)
