"""Which onion signalling messages were seen: bounded, forgotten only when they have expired."""

from __future__ import annotations

import hashlib
import heapq
from typing import Final

from overlay.addresses import OverlayAddress
from overlay.apm.neighbour_shares import GroupsOf, NeighbourShares, no_groups
from overlay.errors import Replayed

__all__ = ["ReplayCache", "replay_tag"]

_LABEL: Final = b"overlay nesm v1 replay"


def replay_tag(encapsulated_key: bytes) -> bytes:
    """Return the 16 bytes by which a layer is remembered.

    The encapsulated key alone decides: whoever changes it loses the tag, and whoever keeps
    it and changes anything else does so too.
    """
    return hashlib.sha256(_LABEL + encapsulated_key).digest()[:16]


class ReplayCache:
    """Remember each layer that was acted upon until its expiry time; admit none when full.

    Dropping the oldest instead would let a flood make room for replays. Neighbours and the
    prefixes of their addresses have shares, so that one of them cannot fill the cache.
    """

    def __init__(
        self, max_entries: int, max_per_neighbour: int, groups: GroupsOf = no_groups
    ) -> None:
        self._seen: NeighbourShares[bytes] = NeighbourShares(max_entries, max_per_neighbour, groups)
        # Layers expire at full minutes, so a few lists hold them all.
        self._expiring: dict[float, list[bytes]] = {}
        self._expiries: list[float] = []

    def __len__(self) -> int:
        """Return how many layers are remembered."""
        return len(self._seen)

    def admits(self, neighbour: OverlayAddress, now: float) -> bool:
        """Tell whether one more layer of this neighbour can be remembered (Unix seconds)."""
        while self._expiries and self._expiries[0] <= now:
            for expired in self._expiring.pop(heapq.heappop(self._expiries)):
                self._seen.discard(expired)
        return self._seen.admits(neighbour)

    def check(self, tag: bytes) -> None:
        """Insist that a layer is new, before any costly work.

        Raises:
            Replayed: it was acted upon before.
        """
        if tag in self._seen:
            raise Replayed("this onion signalling message was seen before")

    def remember(self, tag: bytes, neighbour: OverlayAddress, expires: float) -> None:
        """Remember an authentic layer that was admitted until ``expires`` (Unix seconds)."""
        self._seen.add(tag, neighbour)
        if expires not in self._expiring:
            self._expiring[expires] = []
            heapq.heappush(self._expiries, expires)
        self._expiring[expires].append(tag)
