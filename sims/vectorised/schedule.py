"""Times at which nodes look up their own id to store their descriptor.

A node does so when it joins, after one more minute, after two more, and so on. The pauses double
up to ``republish_interval_s``. It also does so when it signs a new descriptor
(``overlay/dht/publishing.py``). Nodes that are on line when a run begins behave as in the full
simulation (``overlay/dht/upkeep.py``): they have the longest pause with a random
phase, and they sign on the full hours of the run.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from overlay.dht.admission import COOKIE_ROTATION_S
from overlay.dht.descriptor import BACKDATED_S, RESIGN_INTERVAL_S, VALIDITY_S
from overlay.dht.publishing import FIRST_REPUBLISH_S
from overlay.dht.schedule import JITTER
from overlay.dht.settings import DhtSettings

__all__ = ["LASTS_S", "LOOKUP_TAKES_S", "Publications", "cookies_at_hand", "signed_at"]

Floats = npt.NDArray[np.float64]

LASTS_S: Final = VALIDITY_S - BACKDATED_S
"""Time from the signature of a descriptor to its expiry."""

LOOKUP_TAKES_S: Final = 2.0
"""Time from the start of a publication until the record is stored, in seconds."""


def signed_at(since: Floats, until: Floats) -> Floats:
    """Return when each node signed its last descriptor before ``until``."""
    began = np.where(np.isneginf(since), 0.0, since)
    signed: Floats = began + np.floor((until - began) / RESIGN_INTERVAL_S) * RESIGN_INTERVAL_S
    return signed


class Publications:
    """Compute when some nodes stored their descriptors.

    Args:
        settings: has the longest pause.
        rng: draws the jitter, and the phases of nodes that are on line from the start.
    """

    def __init__(self, settings: DhtSettings, rng: np.random.Generator) -> None:
        self._interval_s = settings.republish_interval_s
        self._pauses_s = _pauses(self._interval_s)
        self._rng = rng

    def of(self, since: Floats, now: float) -> Floats:
        """Return when the lookups began that are complete at ``now``: (nodes, times), in order.

        The result covers at least the last hour. NaN stands for no lookup.
        """
        signed = signed_at(since, np.full(len(since), now))
        began = np.where(np.isneginf(since), 0.0, since)
        from_the_start = signed - RESIGN_INTERVAL_S <= began
        first = np.where(from_the_start, began, signed - RESIGN_INTERVAL_S)
        resigns = first + RESIGN_INTERVAL_S
        settled = ~from_the_start | np.isneginf(since)
        pause = np.where(settled, len(self._pauses_s) - 1, 0)
        there_before = from_the_start & np.isneginf(since)
        phases = self._rng.random(len(since)) * self._interval_s
        next_at = np.where(there_before, np.minimum(phases, RESIGN_INTERVAL_S), first)
        times = []
        while (next_at <= now - LOOKUP_TAKES_S).any():
            times.append(next_at)
            resigns = np.where(next_at >= resigns, resigns + RESIGN_INTERVAL_S, resigns)
            jitter = self._rng.uniform(1 - JITTER, 1 + JITTER, len(since))
            next_at = np.minimum(next_at + self._pauses_s[pause] * jitter, resigns)
            pause = np.minimum(pause + 1, len(self._pauses_s) - 1)
        walks = np.array(times).T if times else np.full((len(since), 1), np.nan)
        return np.asarray(np.where(walks <= now - LOOKUP_TAKES_S, walks, np.nan))


def cookies_at_hand(walks: Floats, after: float) -> float:
    """Return the fraction of lookups after a moment that have valid cookies of the near nodes.

    ``walks`` is the result of :meth:`Publications.of`.
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
    """Return the pauses of a new node without jitter, up to the first longest one."""
    pauses = [min(FIRST_REPUBLISH_S, longest_s)]
    while pauses[-1] < longest_s:
        pauses.append(min(2 * pauses[-1], longest_s))
    return np.array(pauses)
