"""Crawl the overlay at growing intervals, one crawl at a time."""

from __future__ import annotations

from collections import Counter
from functools import partial
from random import Random

from overlay.addresses import NodeId
from overlay.dht.crawl import Crawl, Verify
from overlay.dht.eclipse import EclipseWatch
from overlay.dht.events import CrawlFinished, DhtActivity, DhtCount, EventQueue
from overlay.dht.iterative_queries import IterativeQueries
from overlay.dht.membership import Membership, Phase
from overlay.dht.reach import Reach
from overlay.dht.routing import Table
from overlay.dht.schedule import Pace, Schedule, Task
from overlay.dht.settings import DhtSettings
from overlay.dht.storage import RecordStore

__all__ = ["Crawling"]


class Crawling:
    """Begin crawls, report what they found to ``events``, and schedule the next one.

    ``enabled`` is False if ``overlay.dht.inspection`` has switched crawls off.
    """

    def __init__(
        self,
        own_id: NodeId,
        settings: DhtSettings,
        rng: Random,
        *,
        table: Table,
        store: RecordStore,
        walks: IterativeQueries,
        watch: EclipseWatch,
        membership: Membership,
        reach: Reach,
        schedule: Schedule,
        verify: Verify,
        activity: DhtActivity,
        events: EventQueue,
        counts: Counter[DhtCount],
    ) -> None:
        self._own_id = own_id
        self._settings = settings
        self._rng = rng
        self._table = table
        self._store = store
        self._walks = walks
        self._watch = watch
        self._membership = membership
        self._reach = reach
        self._schedule = schedule
        self._verify = verify
        self.enabled = True
        self._activity = activity
        self._events = events
        self._counts = counts
        self._pace = Pace(settings.crawl_first_interval_s, settings.crawl_interval_s, rng)
        self._crawl: Crawl | None = None
        self._again_from = 0.0

    def crawl(self, now: float) -> None:
        """Crawl now, unless a crawl is in progress."""
        if not self.enabled or self._crawl is not None:
            return
        if self._membership.phase is Phase.LEFT:
            return
        self._schedule.cancel(Task.CRAWL)
        self._crawl = Crawl(
            self._own_id,
            self._table,
            self._settings,
            verify=self._verify,
            is_left=self._store.is_left,
            rng=self._rng,
            now=now,
            doubtful=partial(self._watch.suspects, now=now),
            reaches=self._reach.holds,
        )
        self._activity.crawls += 1
        self._walks.launch(self._crawl, now, self._crawled)

    def hasten(self, now: float) -> None:
        """Crawl soon; after a pause if a crawl has just ended."""
        self._schedule.hasten(Task.CRAWL, max(now, self._again_from) + self._rng.random())

    def settle(self) -> None:
        """Use the longest interval, as a node that has been a member for a long time."""
        interval = self._settings.crawl_interval_s
        self._pace = Pace(interval, interval, self._rng)

    def _crawled(self, now: float) -> None:
        crawl, self._crawl = self._crawl, None
        if crawl is None:
            return
        self._counts[DhtCount.REFUSED_RECORD] += crawl.refused_records
        if crawl.complete:
            self._watch.crawled(crawl.answered_ids, self._rng, now)
        self._events.append(
            CrawlFinished(crawl.descriptors, crawl.started_at, crawl.exhaustive, crawl.unanswered())
        )
        if self._membership.phase is Phase.JOINED:
            # A larger overlay is crawled less often, so that the mean rate of queries is bounded.
            spent_s = crawl.queries_sent / self._settings.crawl_queries_per_s
            self._schedule.at(Task.CRAWL, now + max(self._pace.next(), spent_s))
            self._again_from = now + max(self._settings.crawl_first_interval_s, spent_s)
