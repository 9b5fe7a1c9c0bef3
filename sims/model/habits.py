"""How often nodes call each other, derived from what they do: lookups, refreshes, joining.

Reasons: docs/decisions/0031.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from overlay.dht.settings import DhtSettings

__all__ = ["Habits", "Traffic", "crawl_pause_s", "near_calls_per_s", "refreshes_per_s"]

_HOLDERS_ASKED: Final = 3
_QUERIES_OF_A_CRAWL: Final = 3
"""To each node."""

_NEIGHBOURHOOD: Final = 1.3
"""A walk calls all neighbours if its target lies among the nearest 1.3 k."""

_PINGS_OF_A_WALK: Final = 4
"""Strangers that answer a walk come in a burst; while one ping is under way there is no other,
and a walk lasts as long as four of them."""


def share_of_bucket(depth: int) -> float:
    """Return the share of the key space that has exactly so many leading bits of an id."""
    return math.ldexp(1.0, -(depth + 1))


@dataclass(frozen=True, slots=True)
class Habits:
    """How nodes of an overlay behave in the mean.

    Attributes:
        online: how many there are.
        leaving_per_s: how often one of them leaves.
        lookups_per_s: how often one looks something up.
        queries: that such a lookup sends.
        answered: the share of those that somebody answers.
        first_hand: the share that goes to contacts of its own table.
    """

    online: int
    leaving_per_s: float
    lookups_per_s: float
    queries: float
    answered: float
    first_hand: float

    def in_bucket(self, depth: int) -> float:
        """Return how many nodes share exactly so many bits with a node."""
        return self.online * share_of_bucket(depth)


@dataclass(frozen=True, slots=True)
class Traffic:
    """What happens at a node for one of its full buckets, each a rate per second.

    Attributes:
        called: how often the node calls one contact of the bucket.
        seen: how often it sees a sign of life of one contact.
        pinged: how often it pings the one seen least recently: whenever it meets a stranger.
    """

    called: float
    seen: float
    pinged: float

    @classmethod
    def into(cls, settings: DhtSettings, habits: Habits, depth: int) -> Traffic:
        """Return what goes on in the bucket of a depth.

        Of the calls that a walk makes the first go to contacts of the walking node, later ones
        to whoever lies there; and as often as a node calls into a bucket, its members call it.
        The walks with which it joined found nobody dead: its contacts were new then.
        """
        k, inside = settings.k, max(habits.in_bucket(depth), settings.k + 1.0)
        known = k / inside
        walks = habits.lookups_per_s * share_of_bucket(depth) + refreshes_per_s(settings, habits)
        at_leisure = walks - habits.leaving_per_s
        answers = habits.queries * habits.answered
        first = answers * habits.first_hand
        fetched = habits.lookups_per_s * share_of_bucket(depth) * _HOLDERS_ASKED
        from_others = walks * answers + fetched
        by_walks = walks * (answers - first) + fetched
        bursts = walks * min((answers - first) * (1 - known), _PINGS_OF_A_WALK)
        pinged = min(from_others * (1 - known) + bursts, k / settings.liveness_interval_s)
        of_all = max(habits.queries * habits.first_hand / k, habits.queries / inside)
        return cls(
            called=at_leisure * min(1.0, of_all),
            seen=(walks * first + known * (from_others + by_walks + pinged)) / k,
            pinged=pinged,
        )

    def notice_s(self, settings: DhtSettings) -> float:
        """Return how long a departed contact stands in the bucket, in the mean.

        It has died anywhere in the order of last sightings; those ahead of it leave that place
        one by one when pinged, and each by itself when seen.
        """
        ahead = settings.k * self.seen / self.pinged
        overtaken_s = ((1 + ahead) * math.log1p(ahead) - ahead) / ahead / self.seen
        probed_s = overtaken_s + 1 / self.pinged
        silent_s = settings.rpc_timeout_s * (math.ldexp(1.0, settings.rpc_attempts) - 1)
        return -math.expm1(-self.called * probed_s) / self.called + silent_s


def refreshes_per_s(settings: DhtSettings, habits: Habits) -> float:
    """Return how often a node refreshes one bucket: once an interval, and when it joins."""
    return 1 / settings.refresh_interval_s + habits.leaving_per_s


def crawl_pause_s(settings: DhtSettings, nodes: int) -> float:
    """Return how long a node waits between two crawls that come across so many nodes."""
    queries = _QUERIES_OF_A_CRAWL * min(nodes, settings.crawl_max_nodes)
    return max(settings.crawl_interval_s, queries / settings.crawl_queries_per_s)


def near_calls_per_s(settings: DhtSettings, habits: Habits) -> float:
    """Return how often a neighbour is called besides by walks towards the holder's own id.

    The bucket next to the deepest is refreshed by itself, the deepest by those walks.
    """
    beside = min(1.0, _NEIGHBOURHOOD * settings.k / max(habits.online, 1))
    return habits.lookups_per_s * beside + 1 / settings.refresh_interval_s
