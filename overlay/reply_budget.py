"""Replies that ask a stranger for a proof of its address: so many a second, and no more.

They are counted continuously, because the first sender in each slot of time would use up a
budget of slots, and the honest stranger that comes later would get no reply in any of them.

Such a reply costs several times as much as what else a message without a proof makes a node
do. So a flood of them is answered in part, and the rest costs a look.
"""

from __future__ import annotations

from typing import Final

from overlay.fair_rate import FairRate
from overlay.shares import Group, Groups

__all__ = ["ReplyBudget"]

_IPV4_PREFIX_BYTES = 3
_IPV6_PREFIX_BYTES = 7

_HORIZON_S: Final = 0.05
_MIN_AT_ONCE: Final = 100
"""A budget of less than this for each horizon has a longer one, up to a second."""


class ReplyBudget:
    """Replies that a node still sends now.

    One IPv4 /24 or IPv6 /56 may take half of them, no less: its addresses may be forged, and
    the honest node that really is there must get its reply as well. Holds the prefixes of
    about two horizons, at most as many as it admits replies.
    """

    def __init__(self, most_per_s: int) -> None:
        """Admit ``most_per_s`` replies a second, at least 1."""
        horizon_s = max(_HORIZON_S, min(1.0, _MIN_AT_ONCE / most_per_s))
        self._rate = FairRate(most_per_s, horizon_s, least=0.1)

    def is_spent(self, address: bytes, now: float) -> bool:
        """Tell whether none is left now for a packed address (4 or 16 bytes)."""
        return not self._rate.admits(_groups(address), now)

    def is_exhausted(self, now: float) -> bool:
        """Tell whether none is left now for anybody."""
        return not self._rate.admits((), now)

    def take(self, address: bytes, now: float) -> bool:
        """Take one reply to a packed address; False if none is left for it."""
        return self._rate.take(_groups(address), now)


def _groups(address: bytes) -> Groups:
    size = _IPV4_PREFIX_BYTES if len(address) == 4 else _IPV6_PREFIX_BYTES
    # What it holds may reach what is free, so that a prefix that is alone gets half.
    return (Group(address[:size], 1.0),)
