"""The lifetimes of link SAs: volume limits for the IPsec backend, and the hard limit in time."""

from __future__ import annotations

from overlay.ipsec.lifetimes import RekeyLimits
from overlay.link.settings import LinkSettings

__all__ = ["hard_s", "link_limits"]


def hard_s(settings: LinkSettings) -> float:
    """Return the lifetime of a pair of link SAs in seconds if no rekeying is answered.

    Both sides begin to rekey at about half of it, so there is time for many attempts.
    """
    return 2 * settings.rekey_after_s + 4 * settings.handshake_timeout_s + settings.retired_sa_s


def link_limits(settings: LinkSettings) -> RekeyLimits:
    """Return the volumes after which a pair of link SAs is replaced, and its hard limit.

    The hard limit in seconds ends the SAs of a node that hangs, and those to a peer that answers
    no rekeying. There is no soft limit in seconds, because the links core rekeys on its own timers.
    """
    return RekeyLimits(
        soft_s=None,
        hard_s=hard_s(settings),
        soft_bytes=settings.rekey_after_bytes,
        soft_packets=settings.rekey_after_packets,
    )
