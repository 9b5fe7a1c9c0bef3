"""When SAs want to be replaced (soft limits) and when they die (hard limits).

Limits are drawn a little apart, so that SAs made together are not replaced together: in a
link both ends would begin at once, in a circuit all hops.

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
"""Soft limits lie below half of what a suite or the sequence numbers allow: the other half is
for what passes while new keys are agreed, and for packets that the sender has sealed (hence
counted) and the network lost."""

_TIME_JITTER: Final = 0.1
_VOLUME_JITTER: Final = 0.2

_ENDLESS: Final = 2**63
"""No limit: neither packets nor bytes come near, and kernels count in 64 bits."""


@dataclass(frozen=True, slots=True)
class RekeyLimits:
    """After what keys are replaced: seconds (None: somebody else counts them), bytes, packets.

    ``hard_s`` is when the SA dies if nobody has replaced it.
    """

    soft_s: float | None
    hard_s: float
    soft_bytes: int
    soft_packets: int


def draw_lifetime(limits: RekeyLimits, suite: int, rng: Random, *, esn: bool = True) -> Lifetime:
    """Return the limits of one SA of those who begin to replace it.

    Args:
        limits: what its owner wishes; lowered to what the suite and the sequence numbers allow.
        suite: the ESP suite's number.
        rng: draws how much earlier it is replaced, up to a tenth (time) or a fifth (volume).
        esn: whether its sequence numbers have 64 bits.
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
    """Return the limits of an SA that this host cannot replace: where its cipher ends, it ends.

    One value for each suite, for a relay has many such SAs.
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
