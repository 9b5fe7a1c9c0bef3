"""What a member does on schedule: look around, refresh buckets, publish, and crawl.

No lookup is made for a circuit, because it would reveal a hop (``overlay.dht.core``).
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import Final

from overlay.addresses import NodeId
from overlay.dht.crawling import Crawling
from overlay.dht.eclipse import EclipseWatch
from overlay.dht.lookup import Lookup
from overlay.dht.lookups import Lookups
from overlay.dht.membership import Membership, Phase
from overlay.dht.messages import Contact
from overlay.dht.publishing import Publisher, around
from overlay.dht.routing import Table
from overlay.dht.schedule import Schedule, Task
from overlay.dht.settings import DhtSettings

__all__ = ["MAX_REFRESHES", "Upkeep"]

_REFRESH_PACE_S: Final = 1.0
"""Pause between the refreshes of two buckets, so that a join does not send a burst."""

MAX_REFRESHES: Final = 3
FIRST_CRAWL_WITHIN_S: Final = 60.0
"""Time within which a resumed member crawls. Its topology table may be empty."""


class Upkeep:
    """Run the scheduled tasks of a member; at most 3 refreshes are in progress at a time."""

    def __init__(
        self,
        own_id: NodeId,
        settings: DhtSettings,
        rng: Random,
        *,
        table: Table,
        lookups: Lookups,
        watch: EclipseWatch,
        membership: Membership,
        publisher: Publisher,
        crawling: Crawling,
        schedule: Schedule,
    ) -> None:
        self._own_id = own_id
        self._settings = settings
        self._rng = rng
        self._table = table
        self._lookups = lookups
        self._watch = watch
        self._membership = membership
        self._publisher = publisher
        self._crawling = crawling
        self._schedule = schedule
        self._refreshing = 0

    def run(self, task: Task, now: float) -> None:
        """Do a task that is due."""
        match task:
            case Task.REFRESH:
                self.refresh(now)
            case Task.PUBLISH:
                self.publish(now)
            case Task.CRAWL:
                self._crawling.crawl(now)

    def look_around(self, now: float) -> None:
        """Look up this node's own id if the first contact has just proved itself."""
        if self._membership.must_look_around:
            self._membership.must_look_around = False
            self._lookups.look_up(self._own_id, now, self._looked_around)

    def refresh(self, now: float) -> None:
        """Look up a random id in a bucket that is due for a refresh, a few buckets at a time."""
        spacing = _REFRESH_PACE_S
        if self._refreshing < MAX_REFRESHES:
            target = self._table.refresh_target(now)
            if target is not None:
                self._refreshing += 1
                self._lookups.look_up(target, now, self._refreshed)
            else:
                spacing = 0.1 * self._settings.refresh_interval_s
        self._schedule.at(Task.REFRESH, now + self._rng.uniform(0.5, 1.5) * spacing)

    def publish(self, now: float) -> None:
        """Find the nodes nearest to this node's id, and store its descriptor there."""
        self._lookups.look_up(self._own_id, now, self._store_in_region)

    def resume(self, contacts: Iterable[Contact], now: float) -> None:
        """Become a member with these contacts, in the middle of the intervals of all tasks.

        Every bucket was refreshed at a random time within the last interval. The descriptor is
        stored again at a random time within the next interval.
        """
        rng, settings = self._rng, self._settings
        for contact in contacts:
            self._table.seen(contact, now)
        self._membership.phase = Phase.JOINED
        self._publisher.settle()
        for bucket in self._table.buckets:
            bucket.last_updated = now - rng.uniform(0.0, settings.refresh_interval_s)
        self._schedule.at(Task.REFRESH, now + rng.uniform(0.0, 0.1 * settings.refresh_interval_s))
        self._schedule.at(Task.PUBLISH, now + rng.uniform(0.0, settings.republish_interval_s))
        self._crawling.settle()
        self._schedule.at(Task.CRAWL, now + rng.uniform(0.0, FIRST_CRAWL_WITHIN_S))

    def _refreshed(self, _lookup: Lookup, _now: float) -> None:
        self._refreshing -= 1

    def _looked_around(self, lookup: Lookup, now: float) -> None:
        if self._membership.looked_around(now):
            self.refresh(now)
            self._schedule.at(Task.CRAWL, now + self._rng.uniform(0.1, 1.0))
            self._store_in_region(lookup, now)

    def _store_in_region(self, lookup: Lookup, now: float) -> None:
        """Store at the k nearest nodes and in the region; search more if it looks eclipsed."""
        reach = self._watch.region(now)
        self._publisher.store_at(lookup, now, reach)
        if reach and self._watch.suspects(self._own_id, now):
            for target in around(self._own_id, reach, self._settings.k):
                self._lookups.look_up(target, now, self._publisher.store_more)
