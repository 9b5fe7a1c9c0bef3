"""Limits of onion SAs at the source, which rekeys them; a hop only answers."""

from __future__ import annotations

from random import Random

from overlay.apm.settings import ApmSettings
from overlay.ipsec.interface import Lifetime
from overlay.ipsec.lifetimes import RekeyLimits, draw_lifetime

__all__ = ["source_lifetime"]


def source_lifetime(settings: ApmSettings, rng: Random) -> Lifetime:
    """Draw the limits of one hop's onion SAs at the source.

    The hard limit in seconds is a safeguard for a node that does not run. A circuit whose keys
    cannot be replaced normally ends long before.
    """
    limits = RekeyLimits(
        soft_s=settings.rekey_after_s,
        hard_s=2 * settings.rekey_after_s + 4 * settings.rekey_timeout_s,
        soft_bytes=settings.rekey_after_bytes,
        soft_packets=settings.rekey_after_packets,
    )
    return draw_lifetime(limits, settings.esp_suite, rng)
