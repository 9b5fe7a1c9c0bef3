"""Derive the rates at which nodes call each other from lookups, refreshes and joins.

Reasons: docs/decisions/0031.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from overlay.dht.crawl import HOLDERS_ASKED
from overlay.dht.settings import DhtSettings

__all__ = ["BucketTraffic", "Habits", "crawl_pause_s", "near_calls_per_s", "refreshes_per_s"]

_QUERIES_OF_A_CRAWL: Final = 3
"""To each node."""

_NEIGHBOURHOOD: Final = 1.3
"""A lookup calls all near nodes if its target is among the nearest 1.3 k ids."""

_PINGS_OF_A_WALK: Final = 4
"""New nodes that answer a lookup appear in a burst. There is one ping at a time, and a lookup
lasts as long as four pings."""


def share_of_bucket(depth: int) -> float:
    """Return the fraction of the key space that shares exactly ``depth`` bits with an id."""
    return math.ldexp(1.0, -(depth + 1))


@dataclass(frozen=True, slots=True)
class Habits:
    """Mean rates and counts of the nodes of an overlay.

    Attributes:
        online: number of nodes on line.
        leaving_per_s: rate at which one node leaves.
        lookups_per_s: lookups of one node per second.
        queries: queries per lookup.
        answered: fraction of the queries that are answered.
        first_hand: fraction of the queries that go to contacts of the node's own table.
    """

    online: int
    leaving_per_s: float
    lookups_per_s: float
    queries: float
    answered: float
    first_hand: float

    def in_bucket(self, depth: int) -> float:
        """Return how many nodes share exactly ``depth`` leading bits with a node."""
        return self.online * share_of_bucket(depth)


@dataclass(frozen=True, slots=True)
class BucketTraffic:
    """Rates per second of a node, for one of its full buckets.

    Attributes:
        called: calls of the node to one contact of the bucket.
        seen: signs of life of one contact.
        pinged: pings to the least recently seen contact. Each new node that it meets causes one.
    """

    called: float
    seen: float
    pinged: float

    @classmethod
    def into(cls, settings: DhtSettings, habits: Habits, depth: int) -> BucketTraffic:
        """Return the rates for the bucket of a depth.

        The first calls of a lookup go to the node's own contacts, later ones to any nodes of
        that range. A node calls into a bucket as often as the members call the node. Lookups
        during the join met no departed contacts, because all contacts were new.
        """
        k, inside = settings.k, max(habits.in_bucket(depth), settings.k + 1.0)
        known = k / inside
        walks = habits.lookups_per_s * share_of_bucket(depth) + refreshes_per_s(settings, habits)
        at_leisure = walks - habits.leaving_per_s
        answers = habits.queries * habits.answered
        first = answers * habits.first_hand
        fetched = habits.lookups_per_s * share_of_bucket(depth) * HOLDERS_ASKED
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
        """Return the mean time until a departed contact is removed from the bucket, in seconds.

        Its position in the order of last signs of life is random. Contacts ahead of it leave
        the first position one by one when they are pinged, or earlier when they are seen.
        """
        ahead = settings.k * self.seen / self.pinged
        overtaken_s = ((1 + ahead) * math.log1p(ahead) - ahead) / ahead / self.seen
        probed_s = overtaken_s + 1 / self.pinged
        silent_s = settings.rpc_timeout_s * (math.ldexp(1.0, settings.rpc_attempts) - 1)
        return -math.expm1(-self.called * probed_s) / self.called + silent_s


def refreshes_per_s(settings: DhtSettings, habits: Habits) -> float:
    """Return the refresh rate of one bucket: once per interval, and once at the join."""
    return 1 / settings.refresh_interval_s + habits.leaving_per_s


def crawl_pause_s(settings: DhtSettings, nodes: int) -> float:
    """Return the pause between two crawls of an overlay with that many nodes, in seconds."""
    queries = _QUERIES_OF_A_CRAWL * min(nodes, settings.crawl_max_nodes)
    return max(settings.crawl_interval_s, queries / settings.crawl_queries_per_s)


def near_calls_per_s(settings: DhtSettings, habits: Habits) -> float:
    """Return the rate of calls to a near node, without lookups of the holder's own id.

    Those lookups refresh the deepest bucket; the next bucket has refreshes of its own.
    """
    beside = min(1.0, _NEIGHBOURHOOD * settings.k / max(habits.online, 1))
    return habits.lookups_per_s * beside + 1 / settings.refresh_interval_s
