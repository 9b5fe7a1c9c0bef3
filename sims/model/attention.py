"""How soon the holders of a contact notice that it is gone, and who is in far buckets at all.

A contact is given up when calls to it fail. Who calls it depends on its bucket:

* *Near*: buckets with room hold every neighbour. Each walk of the holder towards its own id, to
  store its descriptor, calls them all, as does what else passes there. The first failure keeps a
  contact out of answers, the second (``contact_max_failures``) out of the table.
* *Far*: full buckets have replacements, so one failure is the end of a contact. It comes from
  the holder's walks into that bucket, or from the ping that the least recently seen contact gets
  whenever a stranger could take its place. A dead contact is not seen any more and moves towards
  that place as strangers come along and as the living ahead of it are seen.

Who enters a full bucket replaces somebody: newcomers are rare there, and those rarest who stay
shortly. So far contacts die more slowly than nodes do.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from overlay.dht.eclipse import MIN_SAMPLES, chi_squared_cdf
from overlay.dht.settings import DhtSettings
from sims.model.habits import Habits, Traffic, near_calls_per_s, refreshes_per_s
from sims.model.xor import ID_BITS, Positions

__all__ = ["Attention"]

Floats = npt.NDArray[np.float64]

_AGES_S: Final = np.concatenate([np.arange(0, 7200, 60.0), np.arange(7200, 86_401, 1800.0)])
_REACHED: Final = 1.2
"""A walk towards the own id calls the nearest 1.2 k: those it began with, and some more."""


_GONE_LOOKED_AT: Final = 4000

_BACK_AGAIN: Final = 0.5
"""Half of all sightings are answers to the holder's walks; the mute give none."""


class Attention:
    """What part of its holders still has a contact that left some time ago.

    Args:
        settings: k and intervals.
        habits: how often nodes call each other.
        now: seconds from the start of the run.
        holders_since: since when a sample of nodes is on-line.
        walks: when those walked towards their own ids: (nodes, times), NaN where there is none.
        gone_s: how long ago others left.
    """

    def __init__(
        self,
        settings: DhtSettings,
        habits: Habits,
        now: float,
        holders_since: Floats,
        walks: Floats,
        gone_s: Floats,
    ) -> None:
        self._now, self._settings, self._habits = now, settings, habits
        depths = range(ID_BITS + 1)
        sizes = np.array([habits.in_bucket(depth) for depth in depths])
        self._nearest = np.clip((_REACHED * settings.k - sizes) / np.maximum(sizes, 1e-9), 0, 1)
        traffic = [Traffic.into(settings, habits, depth) for depth in depths]
        self._notice_s = np.array([each.notice_s(settings) for each in traffic])
        self._called = np.array([each.called for each in traffic])
        self._pinged = np.array([each.pinged for each in traffic])
        self.buckets = max(1.0, math.log2(max(habits.online / settings.k, 1.0)) + 1)
        self._places = np.minimum(settings.k / np.maximum(sizes, 1e-9), 1.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            entering_per_s = habits.leaving_per_s * self._places / (1 - self._places)
        self._entering_per_s = np.where(self._places < 1, entering_per_s, np.inf)
        there = holders_since[None, :] < now - _AGES_S[:, None]
        self._there = there.mean(axis=1)
        calls_per_s = near_calls_per_s(settings, habits)
        nobody = np.full((len(walks), 1), np.nan)
        self._standing_near = tuple(
            tuple(
                _uncalled(_AGES_S, now, called, there, calls_per_s, fewer_than)
                for called in (walks, nobody)
            )
            for fewer_than in (1, settings.contact_max_failures)
        )
        # The dead take places too, so that a bucket may be full of more than who is there.
        walked, not_walked = (
            float(np.interp(gone_s, _AGES_S, share).sum()) for share in self._standing_near[1]
        )
        dead = self._nearest * walked + (1 - self._nearest) * not_walked
        filling = sizes * (1 + dead / max(habits.online, 1))
        self._full = np.array([_chance_of_more(settings.k, size) for size in filling])

    def calls_of_contacts_per_s(self) -> float:
        """Return how often a node calls one of the contacts that its lookups begin with."""
        weights = 2.0 ** -np.arange(1.0, len(self._called) + 1)
        return float((weights * self._called).sum() / weights.sum())

    def calls_of_others_per_s(self) -> float:
        """Return how often a node calls some other node, be it near or far."""
        habits = self._habits
        walks = habits.lookups_per_s + self.buckets * refreshes_per_s(self._settings, habits)
        return walks * habits.queries / max(habits.online, 1)

    def not_called_since(self, gone_s: Floats) -> tuple[float, float]:
        """Return what share of the dead whom a walk calls nobody called since they left.

        The holders of those in tables, and the askers of those whom others name. After a call
        in vain a node forgets what it has measured of an endpoint.
        """
        if not len(gone_s):
            return 1.0, 1.0
        # Some of many thousands tell the mean; they come in the order of their ids.
        gone_s = gone_s[:: -(-len(gone_s) // _GONE_LOOKED_AT)]
        depths = np.arange(len(self._places))
        weights = 4.0 ** -(depths + 1.0) * self._places  # met there, and held there
        shape = (len(depths), len(gone_s))
        where, ages_s = np.broadcast_to(depths[:, None], shape), np.broadcast_to(gone_s, shape)
        kept = weights[:, None] * self.standing(where, ages_s, in_answers=False)
        named = weights[:, None] * self.standing(where, ages_s, in_answers=True)
        unknown = np.exp(-self.calls_of_others_per_s() * gone_s)
        total = max(float(named.sum()), 1e-12)
        return total / max(float(kept.sum()), 1e-12), float((named * unknown).sum()) / total

    def region_known_after_s(self) -> float:
        """Return how long a node must look around until it knows how large the overlay is."""
        habits = self._habits
        seen_per_s = habits.lookups_per_s + self.buckets / self._settings.refresh_interval_s
        return (MIN_SAMPLES - self.buckets) / seen_per_s

    def pings_per_s(self) -> float:
        """Return how often a node pings a contact whose place somebody else could take."""
        return float((self._full * self._pinged).sum())

    def standing(self, depth: Positions, age_s: Floats, *, in_answers: bool) -> Floats:
        """Return the share of holders that keep a contact that left ``age_s`` ago.

        ``in_answers`` counts those only that would name it to others.
        """
        walked, not_walked = (
            np.interp(age_s, _AGES_S, share)
            for share in self._standing_near[0 if in_answers else 1]
        )
        nearest = self._nearest[depth]
        near = nearest * walked + (1 - nearest) * not_walked
        far = np.interp(age_s, _AGES_S, self._there) * np.exp(-age_s / self._notice_s[depth])
        full = self._full[depth]
        standing: Floats = np.where(age_s > 0, full * far + (1 - full) * near, 1.0)
        return standing

    def mute_standing(self, depth: Positions, deaf_share: Floats, *, in_answers: bool) -> Floats:
        """Return the share of holders that keep a contact that answers PING and STORE alone.

        It fails ``deaf_share`` of the holder's calls, and calls the holder itself as often: that
        makes good its failures. In a full bucket one failure is its end, and to come back it must
        be the last stranger met when a place becomes free.
        """
        near = 1 / (1 + deaf_share)
        if not in_answers:
            near = 1 - (1 - near) ** self._settings.contact_max_failures
        leaving = self._habits.leaving_per_s
        far = _BACK_AGAIN * leaving / (leaving + self._called[depth] * deaf_share)
        full = self._full[depth]
        standing: Floats = full * far + (1 - full) * near
        return standing

    def presence(self, depth: Positions, since: Floats) -> Floats:
        """Return how probably a node stands in a bucket of that depth, by when it came.

        Who was there before the run has had the same chance as all others then.
        """
        places = self._places[depth]
        began = np.where(np.isneginf(since), 0.0, since)
        entered = -np.expm1(-np.maximum(self._now - began, 1.0) * self._entering_per_s[depth])
        there_before = places + (1 - places) * entered
        return np.asarray(np.where(np.isneginf(since), there_before, entered))


def _uncalled(
    ages_s: Floats,
    now: float,
    walks: Floats,
    there: npt.NDArray[np.bool_],
    calls_per_s: float,
    fewer_than: int,
) -> Floats:
    """Return, by age, the share of holders that were there and called less often since then.

    Other calls than walks come at random, ``calls_per_s`` of them.
    """
    with np.errstate(invalid="ignore"):
        walked = (walks[None, :, :] > (now - ages_s)[:, None, None]).sum(axis=2)
    expected = ages_s * calls_per_s
    chance = np.zeros(walked.shape)
    for called in range(fewer_than):
        # Up to that many other calls, given how often it walked.
        term = np.exp(-expected) * expected**called / math.factorial(called)
        chance += np.where(walked < fewer_than - called, term[:, None], 0.0)
    return np.asarray((chance * there).mean(axis=1))


def _chance_of_more(k: int, expected: float) -> float:
    """Return how probably a bucket has more nodes than places, if so many are expected."""
    return chi_squared_cdf(2 * expected, 2 * (k + 1)) if expected > 0 else 0.0
