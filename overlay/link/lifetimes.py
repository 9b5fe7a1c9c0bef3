"""Limits of link SAs by volume; the links core counts their time itself."""

from __future__ import annotations

from overlay.ipsec.lifetimes import RekeyLimits
from overlay.link.settings import LinkSettings

__all__ = ["link_limits"]


def link_limits(settings: LinkSettings) -> RekeyLimits:
    """Return after what a pair of link SAs is replaced, and when it dies.

    The hard limit in seconds is for a node that hangs: a rekeying without an answer closes
    the link long before.
    """
    return RekeyLimits(
        soft_s=None,
        hard_s=2 * settings.rekey_after_s + 4 * settings.handshake_timeout_s + settings.grace_s,
        soft_bytes=settings.rekey_after_bytes,
        soft_packets=settings.rekey_after_packets,
    )
