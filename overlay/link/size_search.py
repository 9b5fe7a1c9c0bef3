"""Find the largest datagram that a link carries by probing (RFC 8899, section 5).

::

    nothing confirmed     probe BASE_BYTES, then MIN_BYTES
    searching             probe the largest size, then the middle between what passed and failed
    complete              probe the size in use every CONFIRM_S, the largest one every RAISE_S

A size has failed after three probes without an answer. If the size in use fails, the link is a
black hole (section 4.3), so the search returns to ``BASE_BYTES`` and begins again. ICMP errors are
ignored, because any host can send them (section 4.6).
"""

from __future__ import annotations

import math
from typing import Final

__all__ = ["BASE_BYTES", "CONFIRM_S", "GRAIN_BYTES", "MAX_PROBES", "MIN_BYTES", "SizeSearch"]

BASE_BYTES: Final = 1200
"""BASE_PLPMTU (RFC 8899, section 5.1.2): the size that is used before a probe was answered.

Like all sizes here it is a UDP payload. With headers it fits 1,280 bytes, the least MTU of IPv6.
"""

MIN_BYTES: Final = 520
"""MIN_PLPMTU: with headers it fits 576 bytes, which every IPv4 host accepts (RFC 1122)."""

MAX_PROBES: Final = 3
"""Probes without an answer after which a size has failed (RFC 8899, section 5.1.2)."""

PROBE_S: Final = 1.0
"""PROBE_TIMER: longest wait for an answer (RFC 8899, section 5.1.1: at least one second)."""

CONFIRM_S: Final = 20.0
"""CONFIRMATION_TIMER: time from a confirmation to the next probe of the size in use."""

RAISE_S: Final = 600.0
"""PMTU_RAISE_TIMER: time from the end of a search to the next attempt at a larger size."""

GRAIN_BYTES: Final = 16
"""The search ends if the smallest size that failed exceeds the largest that passed by no more."""


class SizeSearch:
    """The search of one link. Sizes are bytes of UDP payload, times are Unix seconds.

    Attributes:
        usable: the largest size that datagrams of the link may have now.
        deadline: when :meth:`probe` is due.
        is_answered: whether the peer has answered any probe.
        has_lost: whether any probe got no answer in time.
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
        """Begin at once; ``largest`` is the largest size to try, at least ``BASE_BYTES``."""
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
        """Return the size to probe now, or None if :attr:`deadline` has not come yet."""
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
        """Record that the peer has received a probe of ``size`` bytes."""
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
        """Record that the probed size has failed, and choose the next one."""
        if self._size > self._passed:
            self._failed = min(self._failed, self._size)
        elif self._size > BASE_BYTES:  # a black hole, because this size passed before
            self._failed, self._passed = self._size, 0
            self.usable = BASE_BYTES
        else:  # the peer may be unreachable, which is not detected here
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
