"""Which onion SAs keep a cipher: those in use, and never more than a fixed number.

A cipher holds 2.5 kB of OpenSSL's memory and another 0.4 kB of ours, more than all the rest
of an idle SA; to build it again costs about 3 microseconds, a tenth of what a relay spends
on a packet. So an SA that was not used for a while is cooled, and the one that became warm
first makes room when too many are in use at once. Link SAs stay warm: they are few and busy.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Protocol

__all__ = ["COOLING_S", "MAX_WARM", "CachedCiphers", "CipherCacheEntry"]

COOLING_S: Final = 2.0
"""An SA unused for this long is cooled within as long again, if any packet is processed."""

MAX_WARM: Final = 256
"""Less than 1 MB. First in, first out: nothing to do per packet, unlike by latest use."""


class CipherCacheEntry(Protocol):
    """An SA as far as it concerns its warmth; ``last_used`` in Unix seconds."""

    last_used: float

    def cool(self) -> None:
        """Drop what the next packet can build anew."""
        ...


class CachedCiphers:
    """The onion SAs that hold a cipher, in the order in which they built it; the SAD's."""

    def __init__(self) -> None:
        self._warm: OrderedDict[CipherCacheEntry, None] = OrderedDict()

    def __len__(self) -> int:
        """Return how many SAs are warm, at most :data:`MAX_WARM`."""
        return len(self._warm)

    def add(self, sa: CipherCacheEntry) -> None:
        """Note that an onion SA, not warm so far, has built its cipher."""
        if len(self._warm) == MAX_WARM:
            oldest, _ = self._warm.popitem(last=False)
            oldest.cool()
        self._warm[sa] = None

    def discard(self, sa: CipherCacheEntry) -> None:
        """Forget an SA that is removed; its cipher goes with it."""
        self._warm.pop(sa, None)

    def clear(self) -> None:
        """Forget all: every SA is removed."""
        self._warm.clear()

    def cool_idle(self, now: float) -> None:
        """Cool every SA that was last used :data:`COOLING_S` ago or earlier (Unix seconds)."""
        idle = [sa for sa in self._warm if sa.last_used <= now - COOLING_S]
        for sa in idle:
            sa.cool()
            del self._warm[sa]
