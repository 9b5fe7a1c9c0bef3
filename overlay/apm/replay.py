"""Which onion signalling messages were seen: bounded, forgotten only when they have expired."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Final

from overlay.addresses import OverlayAddress
from overlay.apm.timers import Timers
from overlay.errors import LimitReached, Replayed

__all__ = ["ReplayCache", "replay_tag"]

_LABEL: Final = b"overlay nesm v1 replay"


def replay_tag(encapsulated_key: bytes) -> bytes:
    """Return the 16 bytes by which a layer is remembered.

    The encapsulated key alone decides: whoever changes it loses the tag, and whoever keeps
    it and changes anything else does so too.
    """
    return hashlib.sha256(_LABEL + encapsulated_key).digest()[:16]


class ReplayCache:
    """Remember each accepted layer until its expiry time; refuse new ones when full.

    Dropping the oldest instead would let whoever floods us replay what was dropped. Each
    neighbour has a share, or one alone could fill it and keep all others out.
    """

    def __init__(self, max_entries: int, max_per_neighbour: int) -> None:
        self._max_entries = max_entries
        self._max_per_neighbour = max_per_neighbour
        self._seen: dict[bytes, OverlayAddress] = {}
        self._shares: Counter[OverlayAddress] = Counter()
        self._expiry: Timers[bytes] = Timers()

    def __len__(self) -> int:
        """Return how many layers are remembered."""
        return len(self._seen)

    def check(self, tag: bytes) -> None:
        """Insist that a layer is new, before any costly work.

        Raises:
            Replayed: it was accepted before.
        """
        if tag in self._seen:
            raise Replayed("this onion signalling message was seen before")

    def remember(self, tag: bytes, neighbour: OverlayAddress, expires: float, now: float) -> None:
        """Remember an authentic layer until ``expires`` (Unix seconds).

        Raises:
            LimitReached: the cache, or the neighbour's share, is full of layers that have
                not expired.
        """
        while (expired := self._expiry.pop_due(now)) is not None:
            self._forget(expired)
        if (
            len(self._seen) >= self._max_entries
            or self._shares[neighbour] >= self._max_per_neighbour
        ):
            raise LimitReached("the replay cache is full")
        self._seen[tag] = neighbour
        self._shares[neighbour] += 1
        self._expiry.set(tag, expires)

    def _forget(self, tag: bytes) -> None:
        neighbour = self._seen.pop(tag)
        self._shares[neighbour] -= 1
        if not self._shares[neighbour]:
            del self._shares[neighbour]
