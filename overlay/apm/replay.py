"""Detect replayed onion signalling messages, with a cache of limited size.

An entry is removed only after its message has expired.
"""

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
    """Return the 16 bytes that identify a layer in the replay cache.

    The encapsulated key is enough: if an attacker changes it or anything else, the
    authentication of the layer fails.
    """
    return hashlib.sha256(_LABEL + encapsulated_key).digest()[:16]


class ReplayCache:
    """Remember each processed layer until its expiry time; admit no layers if the cache is full.

    If the oldest entry were dropped instead, a flood could make replays possible. Neighbours and
    the prefixes of their addresses have shares, so that one of them cannot fill the cache.
    """

    def __init__(
        self, max_entries: int, max_per_neighbour: int, groups: GroupsOf = no_groups
    ) -> None:
        self._seen: NeighbourShares[bytes] = NeighbourShares(max_entries, max_per_neighbour, groups)
        # Layers expire at full minutes, so a few lists hold them all.
        self._expiring: dict[float, list[bytes]] = {}
        self._expiries: list[float] = []

    def __len__(self) -> int:
        """Return the number of remembered layers."""
        return len(self._seen)

    def admits(self, neighbour: OverlayAddress, now: float) -> bool:
        """Tell whether one more layer of this neighbour can be remembered (Unix seconds)."""
        while self._expiries and self._expiries[0] <= now:
            for expired in self._expiring.pop(heapq.heappop(self._expiries)):
                self._seen.discard(expired)
        return self._seen.admits(neighbour)

    def check(self, tag: bytes) -> None:
        """Check that a layer is new; this is cheap, so it comes before the decryption.

        Raises:
            Replayed: the layer was processed before.
        """
        if tag in self._seen:
            raise Replayed("this onion signalling message was seen before")

    def remember(self, tag: bytes, neighbour: OverlayAddress, expires: float) -> None:
        """Remember an authentic, admitted layer until ``expires`` (Unix seconds)."""
        self._seen.add(tag, neighbour)
        if expires not in self._expiring:
            self._expiring[expires] = []
            heapq.heappush(self._expiries, expires)
        self._expiring[expires].append(tag)
