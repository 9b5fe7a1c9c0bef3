"""Limits of link SAs by volume; the links core counts their time itself."""

from __future__ import annotations

from overlay.ipsec.lifetimes import RekeyLimits
from overlay.link.settings import LinkSettings

__all__ = ["hard_s", "link_limits"]


def hard_s(settings: LinkSettings) -> float:
    """Return how many seconds a pair of link SAs lives if no rekeying is answered.

    Time enough for many attempts: both sides begin when it is half as old.
    """
    return 2 * settings.rekey_after_s + 4 * settings.handshake_timeout_s + settings.retired_sa_s


def link_limits(settings: LinkSettings) -> RekeyLimits:
    """Return after what a pair of link SAs is replaced, and when it dies.

    The hard limit in seconds is for a node that hangs, and for a peer that answers no rekeying.
    """
    return RekeyLimits(
        soft_s=None,
        hard_s=hard_s(settings),
        soft_bytes=settings.rekey_after_bytes,
        soft_packets=settings.rekey_after_packets,
    )
