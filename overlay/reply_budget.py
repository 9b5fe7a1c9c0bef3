"""Replies that ask a stranger for a proof of its address: so many a second, and no more.

They are counted in slots of 50 ms, so that a short burst does not use up a whole second.

Such a reply costs several times as much as what else a message without a proof makes a node
do. So a flood of them is answered in part, and the rest costs a look.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

__all__ = ["ReplyBudget"]

_IPV4_PREFIX_BYTES = 3
_IPV6_PREFIX_BYTES = 7

_SLOT_S: Final = 0.05
_MIN_PER_SLOT: Final = 100
"""A budget that is smaller than this for each slot has longer slots, up to a second."""


class ReplyBudget:
    """Replies that a node still sends in this slot of time.

    One IPv4 /24 or IPv6 /56 may take half of them, no less: its addresses may be forged, and
    the honest node that really is there must get its reply as well. Holds at most as many
    prefixes as it admits replies.
    """

    def __init__(self, most_per_s: int) -> None:
        """Admit ``most_per_s`` replies a second, at least 1."""
        self._slot_s = max(_SLOT_S, min(1.0, _MIN_PER_SLOT / most_per_s))
        self._most = max(1, int(most_per_s * self._slot_s))
        self._most_per_prefix = -(-self._most // 2)
        self._slot = 0
        self._sent = 0
        self._prefixes: Counter[bytes] = Counter()

    def is_spent(self, address: bytes, now: float) -> bool:
        """Tell whether none is left in this slot for a packed address (4 or 16 bytes)."""
        if self.is_exhausted(now):
            return True
        return self._prefixes.get(_prefix(address), 0) >= self._most_per_prefix

    def is_exhausted(self, now: float) -> bool:
        """Tell whether none is left in this slot for anybody."""
        slot = int(now / self._slot_s)
        if slot != self._slot:  # also if the clock was set back
            self._slot, self._sent = slot, 0
            self._prefixes.clear()
        return self._sent >= self._most

    def take(self, address: bytes, now: float) -> bool:
        """Take one reply to a packed address; False if none is left for it."""
        if self.is_spent(address, now):
            return False
        self._sent += 1
        self._prefixes[_prefix(address)] += 1
        return True


def _prefix(address: bytes) -> bytes:
    return address[:_IPV4_PREFIX_BYTES] if len(address) == 4 else address[:_IPV6_PREFIX_BYTES]
