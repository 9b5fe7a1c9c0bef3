"""Places that the requests of neighbours may take: shares by identity, then by address."""

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
"""Tells which groups share the address at the other end of a neighbour's link."""


def no_groups(neighbour: OverlayAddress) -> Groups:  # noqa: ARG001 - a GroupsOf
    """Count a neighbour by its identity alone, where no link tells its address."""
    return ()


class NeighbourShares(Generic[K]):
    """Who holds the places of one table of circuits, onions or messages.

    Belongs to the owner of that table. An entry keeps the groups that it was added with, so
    that it can be discarded after its link is gone.
    """

    def __init__(self, places: int, per_neighbour: int, groups: GroupsOf) -> None:
        """Prepare.

        Args:
            places: entries in all.
            per_neighbour: entries of one identity.
            groups: of the address of a neighbour's link.
        """
        self._shares: Shares[K] = Shares(places)
        self._per_neighbour = per_neighbour
        self._groups = groups

    def __len__(self) -> int:
        return len(self._shares)

    def __contains__(self, key: object) -> bool:
        return key in self._shares

    def admits(self, neighbour: OverlayAddress) -> bool:
        """Tell whether one more entry of this neighbour has room."""
        return self._shares.admits(self._of(neighbour))

    def add(self, key: K, neighbour: OverlayAddress) -> None:
        """Record an entry that was admitted."""
        self._shares.add(key, self._of(neighbour))

    def discard(self, key: K) -> None:
        """Free the place of an entry, if it has one."""
        self._shares.discard(key)

    def _of(self, neighbour: OverlayAddress) -> Groups:
        return _with_identity(neighbour, self._per_neighbour, self._groups(neighbour))


@lru_cache(maxsize=4096)  # so that the entries of one neighbour share one object
def _with_identity(neighbour: OverlayAddress, most: int, groups: Groups) -> Groups:
    return (Group(neighbour, math.inf, most), *groups)
