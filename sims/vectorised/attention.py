"""Compute how soon holders of a contact detect that it left, and which nodes far buckets hold.

A node removes a contact when calls to it fail. Which calls these are depends on the bucket:

* *Near buckets* have free places and hold every near node. A node stores its descriptor by a
  lookup of its own id, which calls all of them. Other lookups call them as well. After the
  first failure a contact is not named in answers. After the second (``contact_max_failures``)
  it is removed.
* *Far buckets* are full and have replacements, so the first failure removes a contact. The call
  belongs to a lookup into that bucket, or it is a ping. The least recently seen contact is
  pinged when another node could take its place. A departed contact is not seen any more, so it
  moves towards that place while other nodes appear.

A node enters a full bucket only if it replaces a contact. So new nodes are rare there, and nodes
with short sessions are rarest. Therefore far contacts leave more slowly than the average node.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from overlay.dht.eclipse import MIN_SAMPLES, chi_squared_cdf
from overlay.dht.settings import DhtSettings
from sims.vectorised.habits import BucketTraffic, Habits, near_calls_per_s, refreshes_per_s
from sims.vectorised.xor import ID_BITS, Positions

__all__ = ["Attention"]

Floats = npt.NDArray[np.float64]

_AGES_S: Final = np.concatenate([np.arange(0, 7200, 60.0), np.arange(7200, 86_401, 1800.0)])
_REACHED: Final = 1.2
"""A lookup of the own id calls the nearest 1.2 k nodes: the first k, and some found later."""


_GONE_LOOKED_AT: Final = 4000

_BACK_AGAIN: Final = 0.5
"""Half of all signs of life are answers to the holder's lookups. Mute nodes give no answers."""


class Attention:
    """Compute the fraction of holders that still have a contact which left some time ago.

    Args:
        settings: k and intervals.
        habits: how often nodes call each other.
        now: seconds from the start of the run.
        holders_since: times at which a sample of nodes came on line.
        walks: times of their lookups of their own ids: (nodes, times), NaN for none.
        gone_s: times in seconds since other nodes left.
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
        traffic = [BucketTraffic.into(settings, habits, depth) for depth in depths]
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
        # Departed contacts occupy places, too, so the living ones alone need not fill a bucket.
        walked, not_walked = (
            float(np.interp(gone_s, _AGES_S, share).sum()) for share in self._standing_near[1]
        )
        dead = self._nearest * walked + (1 - self._nearest) * not_walked
        filling = sizes * (1 + dead / max(habits.online, 1))
        self._full = np.array([_chance_of_more(settings.k, size) for size in filling])

    def calls_of_contacts_per_s(self) -> float:
        """Return the rate at which a node calls one contact that its lookups begin with."""
        weights = 2.0 ** -np.arange(1.0, len(self._called) + 1)
        return float((weights * self._called).sum() / weights.sum())

    def calls_of_others_per_s(self) -> float:
        """Return the rate at which a node calls any one other node, near or far."""
        habits = self._habits
        walks = habits.lookups_per_s + self.buckets * refreshes_per_s(self._settings, habits)
        return walks * habits.queries / max(habits.online, 1)

    def not_called_since(self, gone_s: Floats) -> tuple[float, float]:
        """Return the fraction of departed contacts that a node has not called since they left.

        The first number is for contacts in the node's table, the second for contacts that
        other nodes name. It matters because after a failed call a node forgets the round trip
        that it measured.
        """
        if not len(gone_s):
            return 1.0, 1.0
        # A sample is enough for the mean. The array is in the order of random ids.
        gone_s = gone_s[:: -(-len(gone_s) // _GONE_LOOKED_AT)]
        depths = np.arange(len(self._places))
        weights = (
            4.0 ** -(depths + 1.0) * self._places
        )  # probability to be met there, and to be held there
        shape = (len(depths), len(gone_s))
        where, ages_s = np.broadcast_to(depths[:, None], shape), np.broadcast_to(gone_s, shape)
        kept = weights[:, None] * self.standing(where, ages_s, in_answers=False)
        named = weights[:, None] * self.standing(where, ages_s, in_answers=True)
        unknown = np.exp(-self.calls_of_others_per_s() * gone_s)
        total = max(float(named.sum()), 1e-12)
        return total / max(float(kept.sum()), 1e-12), float((named * unknown).sum()) / total

    def region_known_after_s(self) -> float:
        """Return how long a node needs to collect enough samples for a size estimate."""
        habits = self._habits
        seen_per_s = habits.lookups_per_s + self.buckets / self._settings.refresh_interval_s
        return (MIN_SAMPLES - self.buckets) / seen_per_s

    def pings_per_s(self) -> float:
        """Return the rate at which a node pings contacts that another node could replace."""
        return float((self._full * self._pinged).sum())

    def standing(self, depth: Positions, age_s: Floats, *, in_answers: bool) -> Floats:
        """Return the fraction of holders that keep a contact which left ``age_s`` ago.

        With ``in_answers``, only holders that would name it in answers count.
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
        """Return the fraction of holders that keep a contact which answers only PING and STORE.

        It does not answer ``deaf_share`` of the holder's calls. It calls the holder as often,
        and each such call resets the failures. In a full bucket the first failure removes it.
        It returns only if it is the latest candidate when a place becomes free.
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
        """Return the probability that a bucket of that depth holds a node, by its arrival time.

        Nodes that were on line before the run all have the same probability.
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
    """Return, by age, the fraction of holders that were on line and made fewer calls since.

    Calls that do not belong to lookups of the own id are random, with rate ``calls_per_s``.
    """
    with np.errstate(invalid="ignore"):
        walked = (walks[None, :, :] > (now - ages_s)[:, None, None]).sum(axis=2)
    expected = ages_s * calls_per_s
    chance = np.zeros(walked.shape)
    for called in range(fewer_than):
        # At most this many other calls, given the number of lookups.
        term = np.exp(-expected) * expected**called / math.factorial(called)
        chance += np.where(walked < fewer_than - called, term[:, None], 0.0)
    return np.asarray((chance * there).mean(axis=1))


def _chance_of_more(k: int, expected: float) -> float:
    """Return the probability that a bucket has more candidates than places."""
    return chi_squared_cdf(2 * expected, 2 * (k + 1)) if expected > 0 else 0.0
