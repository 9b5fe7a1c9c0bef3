"""When nodes walk towards their own id to store their descriptor there.

A node does so when it joins, again after a minute, after two more, and so on, the pauses
doubling up to ``republish_interval_s`` (``overlay/dht/publishing.py``); each descriptor that it
signs anew starts that series again. Who is there when a run begins is as the full simulation has
it (``sims/participants/core.py``): its first series begins at a random moment of the first
interval, and it signs anew on the full hours of the run.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from overlay.dht.admission import COOKIE_ROTATION_S
from overlay.dht.settings import DhtSettings

__all__ = ["RESIGN_S", "VALIDITY_S", "Publications", "signed_at"]

Floats = npt.NDArray[np.float64]

RESIGN_S: Final = 3600.0
VALIDITY_S: Final = 3 * 3600.0 - 60.0
"""From the signing: a descriptor is dated back by a minute."""

_FIRST_PAUSE_S: Final = 60.0
_JITTER: Final = 0.2
_WALK_TAKES_S: Final = 2.0


def signed_at(since: Floats, until: Floats) -> Floats:
    """Return when nodes signed the last descriptor of their sessions up to ``until``."""
    began = np.where(np.isneginf(since), 0.0, since)
    signed: Floats = began + np.floor((until - began) / RESIGN_S) * RESIGN_S
    return signed


class Publications:
    """When each of some nodes stored its descriptor.

    Args:
        settings: the longest pause.
        rng: draws jitter, and the phases of who is there from the beginning.
    """

    def __init__(self, settings: DhtSettings, rng: np.random.Generator) -> None:
        self._pauses_s = _pauses(settings.republish_interval_s)
        self._interval_s = settings.republish_interval_s
        self._rng = rng

    @property
    def per_s(self) -> float:
        """How often a node stores its descriptor, in the mean of its series."""
        return float((np.cumsum(self._pauses_s) < RESIGN_S).sum() + 1) / RESIGN_S

    @property
    def cookie_share(self) -> float:
        """How many of a series' walks come while the last cookies of the neighbours still count."""
        offsets = np.concatenate([[0.0], np.cumsum(self._pauses_s)])
        fetched_at, at_hand = -np.inf, 0
        offsets = offsets[offsets < RESIGN_S]
        for offset in offsets:
            if offset - fetched_at < COOKIE_ROTATION_S:
                at_hand += 1
            else:
                fetched_at = offset
        return at_hand / len(offsets)

    def of(self, since: Floats, now: float) -> Floats:
        """Return when walks began that are over ``now``, of two series: (nodes, times).

        NaN stands where there is none.
        """
        began = signed_at(since, np.full(len(since), now))
        there_before = np.isneginf(since)
        first = self._rng.random(len(since)) * self._interval_s
        in_first = there_before & (began == 0.0)
        current = self._series(np.where(in_first, first, began), now)
        begin_again = np.where(there_before & (began == RESIGN_S), first, began - RESIGN_S)
        had_one = ~in_first & (there_before | (begin_again >= since))
        last = self._series(np.where(had_one, begin_again, np.nan), now)
        last[last >= began[:, None]] = np.nan
        return np.concatenate([last, current], axis=1)

    def _series(self, began: Floats, now: float) -> Floats:
        jitter = self._rng.uniform(1 - _JITTER, 1 + _JITTER, (len(began), len(self._pauses_s)))
        offsets = np.cumsum(self._pauses_s * jitter, axis=1)
        times = began[:, None] + np.concatenate([np.zeros((len(began), 1)), offsets], axis=1)
        there = (times <= now - _WALK_TAKES_S) & (times < began[:, None] + RESIGN_S)
        return np.asarray(np.where(there, times, np.nan))


def _pauses(longest_s: float) -> Floats:
    """Return the pauses of one series, without jitter."""
    pauses = [min(_FIRST_PAUSE_S, longest_s)]
    while sum(pauses) < RESIGN_S / (1 - _JITTER):
        pauses.append(min(2 * pauses[-1], longest_s))
    return np.array(pauses)
