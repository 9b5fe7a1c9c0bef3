"""Limit the replies per second that ask an unauthenticated sender for a proof of its address.

Such a reply costs several times as much as the other work for a message without a proof. So a node
answers only a part of a flood, and the rest costs only a short check.

The limit is continuous. The first sender in each slot would use up a budget of time slots, and an
honest sender that comes later would never get a reply.
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
"""Least number of replies per horizon; a smaller budget has a longer horizon, up to a second."""


class ReplyBudget:
    """The replies that a node may still send now.

    One IPv4 /24 or IPv6 /56 may take half of them. A smaller share would be used up by forged
    addresses of this prefix, and its honest nodes would get no reply. The prefixes of about two
    horizons are stored, at most as many as there are replies.
    """

    def __init__(self, most_per_s: int) -> None:
        """Admit ``most_per_s`` replies a second, at least 1."""
        horizon_s = max(_HORIZON_S, min(1.0, _MIN_AT_ONCE / most_per_s))
        self._rate = FairRate(most_per_s, horizon_s, least=0.1)

    def is_spent(self, address: bytes, now: float) -> bool:
        """Tell whether no reply is left now for a packed address (4 or 16 bytes)."""
        return not self._rate.admits(_groups(address), now)

    def is_exhausted(self, now: float) -> bool:
        """Tell whether no reply is left now for any address."""
        return not self._rate.admits((), now)

    def take(self, address: bytes, now: float) -> bool:
        """Take one reply to a packed address; return False if none is left for it."""
        return self._rate.take(_groups(address), now)


def _groups(address: bytes) -> Groups:
    size = _IPV4_PREFIX_BYTES if len(address) == 4 else _IPV6_PREFIX_BYTES
    # A fraction of 1 lets a prefix hold as much as it leaves free, so alone it gets half.
    return (Group(address[:size], 1.0),)
