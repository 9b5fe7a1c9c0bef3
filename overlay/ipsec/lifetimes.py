"""Draw when an SA is rekeyed (soft limits) and when it ends (hard limits).

The limits have a random part, so that SAs made together are not rekeyed together. Otherwise both
ends of a link, or all hops of a circuit, would start at the same time.

Reasons: docs/decisions/0016.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from random import Random
from typing import Final

from overlay.ipsec.interface import Lifetime
from overlay.ipsec.replay import MAX_ESN, MAX_SEQUENCE, MAX_START
from overlay.ipsec.suites import SUITES

__all__ = ["RekeyLimits", "draw_lifetime", "hard_lifetime"]

_SHARE_OF_HARD: Final = 0.5
"""Upper bound of a soft limit, as a fraction of what the suite or the sequence numbers allow.

The other half is for packets during the rekeying, and for packets that the sender has counted
and the network has lost.
"""

_TIME_JITTER: Final = 0.1
"""Largest random reduction of a soft limit in seconds, as a fraction of it."""

_VOLUME_JITTER: Final = 0.2
"""The same for soft limits in packets and bytes."""

_ENDLESS: Final = 2**63
"""Limits from here on count as none: no SA reaches them, and the kernel counts in 64 bits."""


@dataclass(frozen=True, slots=True)
class RekeyLimits:
    """Age in seconds, bytes and packets after which the keys of an SA are replaced.

    ``soft_s`` is None if the owner of the SA measures its age itself. ``hard_s`` is the age at
    which the SA ends if it has not been replaced.
    """

    soft_s: float | None
    hard_s: float
    soft_bytes: int
    soft_packets: int


def draw_lifetime(limits: RekeyLimits, suite: int, rng: Random, *, esn: bool = True) -> Lifetime:
    """Return the limits of an SA for a node that can rekey it.

    Args:
        limits: the configured limits; lowered to what suite and sequence numbers allow.
        suite: the number of the ESP suite.
        rng: draws the random reduction of the soft limits, up to 10 % (time) or 20 % (volume).
        esn: whether the sequence numbers have 64 bits.
    """
    hard = hard_lifetime(suite, esn=esn)
    earlier = 1 - _TIME_JITTER * rng.random()
    return Lifetime(
        soft_s=None if limits.soft_s is None else limits.soft_s * earlier,
        hard_s=limits.hard_s,
        soft_packets=_soft(limits.soft_packets, hard.hard_packets, rng),
        hard_packets=hard.hard_packets,
        soft_bytes=_soft(limits.soft_bytes, hard.hard_bytes, rng),
        hard_bytes=hard.hard_bytes,
    )


@functools.lru_cache(maxsize=64)
def hard_lifetime(suite: int, *, esn: bool = True) -> Lifetime:
    """Return the limits of an SA that this node cannot rekey: those of suite and numbers alone.

    The result is cached, because a relay has many such SAs and they can share one value.
    """
    return Lifetime(
        hard_packets=_finite((MAX_ESN if esn else MAX_SEQUENCE) - MAX_START),
        hard_bytes=_finite(SUITES[suite].max_payload_bytes),
    )


def _finite(limit: int) -> int | None:
    return limit if limit < _ENDLESS else None


def _soft(wanted: int, hard: int | None, rng: Random) -> int:
    bound = math.inf if hard is None else hard * _SHARE_OF_HARD
    return max(1, int(min(wanted, bound) * (1 - _VOLUME_JITTER * rng.random())))
