"""The largest datagram that one link carries, found by probing (RFC 8899, section 5).

::

    nothing confirmed     probe BASE_BYTES, then MIN_BYTES
    searching             probe the largest size, then the middle between what passed and failed
    complete              probe the size in use every CONFIRM_S, the largest one every RAISE_S

A size has failed after three probes without an answer. If the size in use fails, packets vanish
(a black hole, section 4.3), so the search falls back to ``BASE_BYTES`` and begins again. ICMP
errors are not looked at, because anyone can send them (section 4.6).
"""

from __future__ import annotations

import math
from typing import Final

__all__ = ["BASE_BYTES", "CONFIRM_S", "GRAIN_BYTES", "MAX_PROBES", "MIN_BYTES", "SizeSearch"]

BASE_BYTES: Final = 1200
"""BASE_PLPMTU (RFC 8899, section 5.1.2): what a link may carry before any probe was answered.

It is a UDP payload, as all sizes here. With headers it fits 1,280 bytes, IPv6's least.
"""

MIN_BYTES: Final = 520
"""MIN_PLPMTU: with headers it fits 576 bytes, what every IPv4 host accepts (RFC 1122)."""

MAX_PROBES: Final = 3
"""Probes without an answer after which a size has failed (RFC 8899, section 5.1.2)."""

PROBE_S: Final = 1.0
"""PROBE_TIMER: how long a probe is waited for; RFC 8899, section 5.1.1 asks for one second."""

CONFIRM_S: Final = 20.0
"""CONFIRMATION_TIMER: how soon after its confirmation the size in use is probed again."""

RAISE_S: Final = 600.0
"""PMTU_RAISE_TIMER: how long after a search a larger size is tried again."""

GRAIN_BYTES: Final = 16
"""The search ends when what passed and what failed are that close."""


class SizeSearch:
    """The search of one link; sizes are bytes of UDP payload, times Unix seconds.

    ``usable`` is what datagrams of the link may have now, ``deadline`` when :meth:`probe` is due.
    ``is_answered`` tells whether the peer has ever answered, ``has_lost`` whether any probe got no
    answer in time.
    """

    __slots__ = (
        "_failed",
        "_largest",
        "_passed",
        "_raise_at",
        "_size",
        "_tries",
        "deadline",
        "has_lost",
        "is_answered",
        "usable",
    )

    def __init__(self, largest: int, now: float) -> None:
        """Begin at once; ``largest`` is the greatest size of use, at least ``BASE_BYTES``."""
        if largest < BASE_BYTES:
            raise ValueError(f"the largest size must be at least {BASE_BYTES} bytes.")
        self._largest = largest
        self._passed = 0
        self._failed = largest + 1
        self._size = BASE_BYTES
        self._tries = 0
        self._raise_at = math.inf
        self.usable = BASE_BYTES
        self.is_answered = False
        self.has_lost = False
        self.deadline = now

    @property
    def is_complete(self) -> bool:
        """Whether no size is left to try."""
        return self._passed > 0 and self._failed - self._passed <= GRAIN_BYTES

    def probe(self, now: float) -> int | None:
        """Return the size to probe now, or None before the deadline, which then lies ahead."""
        if now < self.deadline:
            return None
        if self._tries >= MAX_PROBES:
            self._lost(now)
            if now < self.deadline:
                return None
        elif self._tries == 0 and self.is_complete and now >= self._raise_at:
            self._raise_at = math.inf
            self._failed = self._largest + 1
            self._size = self._largest
        self.has_lost = self.has_lost or self._tries > 0
        self._tries += 1
        self.deadline = now + PROBE_S
        return self._size

    def answered(self, size: int, now: float) -> None:
        """Take the peer's word that a probe of ``size`` bytes has arrived."""
        if not MIN_BYTES <= size <= self._largest:
            return
        self.is_answered = True
        self._passed = max(self._passed, size)
        if size >= self._failed:  # the answers to its probes were lost
            self._failed = self._largest + 1
        self.usable = self._passed
        if size >= self._size or self._passed >= self._size:
            self._next(now)

    def _lost(self, now: float) -> None:
        """The size that was probed has failed."""
        if self._size > self._passed:
            self._failed = min(self._failed, self._size)
        elif self._size > BASE_BYTES:  # a black hole: it did pass
            self._failed, self._passed = self._size, 0
            self.usable = BASE_BYTES
        else:  # the peer may be gone, which is for others to find out
            self._passed = 0
        self._next(now)

    def _next(self, now: float) -> None:
        self._tries = 0
        self.deadline = now
        if self._passed:
            middle = (self._passed + self._failed) // 2
            self._size = self._largest if self._failed > self._largest else middle
            if self.is_complete:
                self._size = self._passed
                self.deadline = now + CONFIRM_S
                if self._passed < self._largest and self._raise_at == math.inf:
                    self._raise_at = now + RAISE_S
        elif self._size > BASE_BYTES:
            self._size = BASE_BYTES
        elif self._size > MIN_BYTES:
            self._size, self.usable = MIN_BYTES, MIN_BYTES
        else:
            self._size, self.usable, self._failed = BASE_BYTES, BASE_BYTES, self._largest + 1
            self.deadline = now + CONFIRM_S
