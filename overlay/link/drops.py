"""The reasons for which datagrams of the link channel are dropped."""

from __future__ import annotations

import enum
from typing import Final

from overlay.errors import LimitReached, Malformed, NotAuthentic, PeerError, Refused, Replayed

__all__ = ["LinkDrop", "drop_of"]


class LinkDrop(enum.Enum):
    """Why a datagram of the link channel was dropped.

    Drops are counted and never logged, because any host can cause them at any rate.
    """

    MALFORMED = "no message of ours"
    ENDPOINT = "from an address that is not allowed"
    NOT_AUTHENTIC = "forged or not for us"
    REPLAYED = "seen before, too old, or from the future"
    REFUSED = "valid, but not acceptable"
    LIMIT = "a bound was reached"
    UNKNOWN = "for a handshake or pair that we do not have"
    COOKIE = "answered with a cookie reply"

    # Enum.__hash__ is a slower Python function, and a flood of garbage counts each drop.
    __hash__ = object.__hash__


_OF_ERROR: Final = (
    (Malformed, LinkDrop.MALFORMED),
    (NotAuthentic, LinkDrop.NOT_AUTHENTIC),
    (Replayed, LinkDrop.REPLAYED),
    (Refused, LinkDrop.REFUSED),
    (LimitReached, LinkDrop.LIMIT),
)


def drop_of(error: PeerError | LimitReached) -> LinkDrop:
    """Return the reason under which an error is counted."""
    return next((drop for kind, drop in _OF_ERROR if isinstance(error, kind)), LinkDrop.REFUSED)
