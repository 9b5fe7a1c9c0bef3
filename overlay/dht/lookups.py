"""Make the lookups of this node's own work, and watch their results for eclipsed regions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from overlay.addresses import NodeId
from overlay.dht.eclipse import EclipseWatch
from overlay.dht.events import DhtActivity, EclipseSuspected, EventQueue
from overlay.dht.iterative_queries import IterativeQueries
from overlay.dht.lookup import Lookup
from overlay.dht.routing import Table
from overlay.dht.settings import DhtSettings

__all__ = ["Lookups", "OnLookedUp"]

OnLookedUp = Callable[[Lookup, float], None]
"""Continues the work of the part that started a lookup, with its result and the time."""


class Lookups:
    """Start lookups, count them in ``activity``, and report suspicions to ``events``."""

    def __init__(
        self,
        own_id: NodeId,
        settings: DhtSettings,
        *,
        table: Table,
        walks: IterativeQueries,
        watch: EclipseWatch,
        activity: DhtActivity,
        events: EventQueue,
    ) -> None:
        self._own_id = own_id
        self._settings = settings
        self._table = table
        self._walks = walks
        self._watch = watch
        self._activity = activity
        self._events = events

    def look_up(self, target: NodeId, now: float, on_finished: OnLookedUp) -> None:
        """Look up an id as a refresh of its bucket."""
        self._table.refreshed(target, now)
        self._activity.lookups += 1
        self.probe(target, now, partial(self._looked_up, on_finished))

    def probe(self, target: NodeId, now: float, on_finished: OnLookedUp) -> None:
        """Look up an id, which neither counts as a refresh nor enters the estimates."""
        start = self._table.closest(target, self._settings.k)
        lookup = Lookup(target, self._own_id, start, self._settings, now)
        self._walks.launch(lookup, now, partial(on_finished, lookup))

    def _looked_up(self, on_finished: OnLookedUp, lookup: Lookup, now: float) -> None:
        nearest = lookup.closest()
        if nearest and now < lookup.next_deadline():
            self._activity.lookups_succeeded += 1
        chance = self._watch.looked_up(lookup.target, nearest, now)
        if chance is not None:
            self._activity.eclipses_suspected += 1
            own_region = self._watch.suspects(self._own_id, now)
            self._events.append(EclipseSuspected(chance, own_region))
        on_finished(lookup, now)
