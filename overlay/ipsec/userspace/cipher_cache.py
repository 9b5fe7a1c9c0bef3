"""Keep the ciphers of onion SAs that are in use, up to a fixed number.

A cipher takes 2.5 kB of memory in OpenSSL and 0.4 kB in Python, more than the rest of an idle SA.
To build it again takes about 3 microseconds, a tenth of the time that a relay needs for a packet.
So the cipher of an SA that was not used for some time is released. If too many are in use, the
one that was built first is released. Link SAs are few and busy, so they always keep theirs.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Protocol

__all__ = ["COOLING_S", "MAX_WARM", "CachedCiphers", "CipherCacheEntry"]

COOLING_S: Final = 2.0
"""Seconds without use after which the cipher of an SA is released.

The engine checks at this interval too, so a release may be as late again.
"""

MAX_WARM: Final = 256
"""Maximum number of cached ciphers; they take less than 1 MB.

The first one in is the first one out, because the latest use would need an update per packet.
"""


class CipherCacheEntry(Protocol):
    """The interface of an SA with a cached cipher; ``last_used`` is in Unix seconds."""

    last_used: float

    def cool(self) -> None:
        """Release the cipher; the next packet builds it again."""
        ...


class CachedCiphers:
    """The onion SAs of one SAD that have a cipher, in the order in which they built it."""

    def __init__(self) -> None:
        self._warm: OrderedDict[CipherCacheEntry, None] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of cached ciphers, at most :data:`MAX_WARM`."""
        return len(self._warm)

    def add(self, sa: CipherCacheEntry) -> None:
        """Add an onion SA that has just built its cipher and is not in the cache."""
        if len(self._warm) == MAX_WARM:
            oldest, _ = self._warm.popitem(last=False)
            oldest.cool()
        self._warm[sa] = None

    def discard(self, sa: CipherCacheEntry) -> None:
        """Remove an SA that is being deleted together with its cipher."""
        self._warm.pop(sa, None)

    def clear(self) -> None:
        """Remove all SAs, because the SAD deletes them."""
        self._warm.clear()

    def cool_idle(self, now: float) -> None:
        """Release the ciphers of SAs unused for :data:`COOLING_S`; ``now`` in Unix seconds."""
        idle = [sa for sa in self._warm if sa.last_used <= now - COOLING_S]
        for sa in idle:
            sa.cool()
            del self._warm[sa]
