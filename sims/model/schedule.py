"""When nodes walk towards their own id to store their descriptor there.

A node does so when it joins, again after a minute, after two more, and so on, the pauses
doubling up to ``republish_interval_s``, and whenever it signs its descriptor anew
(``overlay/dht/publishing.py``). Who is there when a run begins is as the full simulation has
it (``sims/participants/core.py``): it keeps the longest pause, the first of them up to a random
moment, and signs anew on the full hours of the run.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from overlay.dht.admission import COOKIE_ROTATION_S
from overlay.dht.settings import DhtSettings

__all__ = ["RESIGN_S", "VALIDITY_S", "Publications", "cookies_at_hand", "signed_at"]

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
        self._interval_s = settings.republish_interval_s
        self._pauses_s = _pauses(self._interval_s)
        self._rng = rng

    def of(self, since: Floats, now: float) -> Floats:
        """Return when walks began that are over ``now``: (nodes, times), in order.

        They are those of the last hour and more; NaN stands where there is none.
        """
        signed = signed_at(since, np.full(len(since), now))
        began = np.where(np.isneginf(since), 0.0, since)
        from_the_start = signed - RESIGN_S <= began
        first = np.where(from_the_start, began, signed - RESIGN_S)
        resigns = first + RESIGN_S
        settled = ~from_the_start | np.isneginf(since)
        pause = np.where(settled, len(self._pauses_s) - 1, 0)
        there_before = from_the_start & np.isneginf(since)
        phases = self._rng.random(len(since)) * self._interval_s
        next_at = np.where(there_before, np.minimum(phases, RESIGN_S), first)
        times = []
        while (next_at <= now - _WALK_TAKES_S).any():
            times.append(next_at)
            resigns = np.where(next_at >= resigns, resigns + RESIGN_S, resigns)
            jitter = self._rng.uniform(1 - _JITTER, 1 + _JITTER, len(since))
            next_at = np.minimum(next_at + self._pauses_s[pause] * jitter, resigns)
            pause = np.minimum(pause + 1, len(self._pauses_s) - 1)
        walks = np.array(times).T if times else np.full((len(since), 1), np.nan)
        return np.asarray(np.where(walks <= now - _WALK_TAKES_S, walks, np.nan))


def cookies_at_hand(walks: Floats, after: float) -> float:
    """Return how many of the walks after a moment find the neighbours' cookies still valid.

    ``walks`` is what :meth:`Publications.of` returns.
    """
    fetched_at = np.full(len(walks), -np.inf)
    counted = at_hand = 0
    for begun in walks.T:
        known = begun - fetched_at < COOKIE_ROTATION_S
        lately = begun > after
        counted += int(lately.sum())
        at_hand += int((known & lately).sum())
        fetched_at = np.where(known | np.isnan(begun), fetched_at, begun)
    return at_hand / counted if counted else 0.0


def _pauses(longest_s: float) -> Floats:
    """Return the pauses of a newcomer, without jitter, up to the first of the longest ones."""
    pauses = [min(_FIRST_PAUSE_S, longest_s)]
    while pauses[-1] < longest_s:
        pauses.append(min(2 * pauses[-1], longest_s))
    return np.array(pauses)
