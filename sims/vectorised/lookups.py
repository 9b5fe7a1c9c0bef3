"""Run many iterative lookups at once, by the rules of ``overlay/dht/lookup.py``.

Each lookup keeps ``alpha`` queries in flight over disjoint paths. A query without an answer takes
as long as its timeouts. One step of the model completes in every lookup the query that ends
first. Lookups are independent, so each has a clock of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from overlay.dht.lookup import CANDIDATES_PER_K
from overlay.dht.settings import DhtSettings
from sims.vectorised.tables import ABSENT, Tables
from sims.vectorised.xor import Flags, Ids, Positions

__all__ = ["CallTimes", "LookupResults", "look_up"]

Floats = npt.NDArray[np.float64]

_UNASKED, _ASKED, _ANSWERED, _FAILED = range(4)
_FAR = np.iinfo(np.uint64).max


class CallTimes(Protocol):
    """Durations of calls to contacts of the own table (``first_hand``) and to others."""

    def answered(self, first_hand: Flags) -> Floats:
        """Draw the durations of answered calls, in seconds."""
        ...

    def silence(self, first_hand: Flags) -> Floats:
        """Draw how long unanswered calls stay in flight, in seconds."""
        ...


@dataclass(frozen=True, slots=True)
class LookupResults:
    """Results with one entry per lookup.

    ``closest`` has up to k nodes, closest first, and ``ABSENT`` after the last. ``hops`` is the
    number of replies between the source and the closest node. ``queries`` includes the
    ``silent`` ones, which got no answer. ``first_hand`` queries went to contacts of the source.
    """

    closest: Ids
    hops: Positions
    queries: Positions
    silent: Positions
    first_hand: Positions
    latency_s: Floats


def look_up(
    tables: Tables,
    sources: Ids,
    targets: Ids,
    settings: DhtSettings,
    times: CallTimes,
) -> LookupResults:
    """Look up each target from its source.

    Args:
        tables: the routing tables.
        sources: ids of the nodes that make the lookups.
        targets: ids that they search.
        settings: k, alpha, disjoint paths and the limits of the product.
        times: draws the durations of queries, answered or not.
    """
    crowd = _Crowd(tables, sources, targets, settings, times)
    crowd.begin(sources)
    while crowd.step():
        pass
    return crowd.results()


class _Crowd:
    """The lookups under way, as arrays: lookup x path x candidate."""

    def __init__(
        self,
        tables: Tables,
        sources: Ids,
        targets: Ids,
        settings: DhtSettings,
        times: CallTimes,
    ) -> None:
        count, paths = len(targets), settings.disjoint_paths
        memory = CANDIDATES_PER_K * settings.k
        self._tables, self._settings = tables, settings
        self._times = times
        self._sources, self._targets = sources, targets
        shape = (count, paths, memory)
        self._ids = np.full(shape, ABSENT)
        self._distance = np.full(shape, _FAR)
        self._state = np.zeros(shape, np.int8)
        self._alive = np.zeros(shape, np.bool_)
        self._hops = np.zeros(shape, np.int16)
        queries = settings.lookup_max_queries
        self._asked_ids = np.full((count, queries), ABSENT)
        self._asked_state = np.zeros((count, queries), np.int8)
        self._asked_path = np.zeros((count, queries), np.int8)
        self._asked_hops = np.zeros((count, queries), np.int16)
        self._asked_alive = np.zeros((count, queries), np.bool_)
        self._ends = np.full((count, queries), np.inf)
        self._queries = np.zeros(count, np.int64)
        self._in_flight = np.zeros((count, paths), np.int64)
        self._now = np.zeros(count)
        self._running = np.ones(count, np.bool_)

    def begin(self, sources: Ids) -> None:
        """Distribute the closest contacts of the source among the paths."""
        known = self._tables.closest(sources, self._targets, own=True)
        distance = np.where(known.ids == ABSENT, _FAR, known.ids ^ self._targets[:, None])
        order = np.argsort(distance, axis=1, kind="stable")
        ids = np.take_along_axis(known.ids, order, axis=1)
        alive = np.take_along_axis(known.alive, order, axis=1)
        rows = np.arange(len(ids))
        for path in range(self._settings.disjoint_paths):
            dealt = slice(path, None, self._settings.disjoint_paths)
            hops = np.zeros(len(ids), np.int16)
            self._learn(rows, np.full(len(rows), path), ids[:, dealt], alive[:, dealt], hops)
        self._ask(rows)

    def step(self) -> bool:
        """Complete one query in every running lookup; return whether any lookup still runs."""
        rows = np.flatnonzero(self._running)
        ends = self._ends[rows]
        which = np.argmin(ends, axis=1)
        when = ends[np.arange(len(rows)), which]
        idle = ~np.isfinite(when) | (when >= self._settings.lookup_time_s)
        self._now[rows] = np.minimum(
            np.where(np.isfinite(when), when, self._now[rows]), self._settings.lookup_time_s
        )
        self._running[rows[idle]] = False
        rows, which = rows[~idle], which[~idle]
        if not len(rows):
            return False
        self._settle(rows, which)
        self._ask(rows)
        return True

    def results(self) -> LookupResults:
        """Return the results."""
        k, rows = self._settings.k, np.arange(len(self._targets))
        answered = self._asked_state == _ANSWERED
        distance = np.where(answered, self._asked_ids ^ self._targets[:, None], _FAR)
        order = np.argsort(distance, axis=1, kind="stable")[:, :k]
        found = np.take_along_axis(np.where(answered, self._asked_ids, ABSENT), order, axis=1)
        used = np.arange(self._asked_ids.shape[1]) < self._queries[:, None]
        return LookupResults(
            closest=found,
            hops=self._asked_hops[rows, order[:, 0]].astype(np.int64) + 1,
            queries=self._queries.copy(),
            silent=(used & ~self._asked_alive).sum(axis=1),
            first_hand=(used & (self._asked_hops == 0)).sum(axis=1),
            latency_s=self._now.copy(),
        )

    def _settle(self, rows: Positions, which: Positions) -> None:
        """Process the end of one query in each of ``rows``."""
        node, path = self._asked_ids[rows, which], self._asked_path[rows, which]
        alive = self._asked_alive[rows, which]
        state = np.where(alive, _ANSWERED, _FAILED).astype(np.int8)
        self._asked_state[rows, which] = state
        self._ends[rows, which] = np.inf
        self._in_flight[rows, path] -= 1
        same = self._ids[rows] == node[:, None, None]
        self._state[rows] = np.where(same, state[:, None, None], self._state[rows])
        spoke = np.flatnonzero(alive)
        if not len(spoke):
            return
        rows, which, path, node = rows[spoke], which[spoke], path[spoke], node[spoke]
        hops = self._asked_hops[rows, which] + np.int16(1)
        replies = self._tables.closest(node, self._targets[rows])
        near = hops <= self._settings.lookup_max_hops
        ids = np.where(near[:, None], replies.ids, ABSENT)
        self._learn(rows, path.astype(np.int64), ids, replies.alive, hops)

    def _learn(
        self, rows: Positions, path: Positions, ids: Ids, alive: Flags, hops: npt.NDArray[np.int16]
    ) -> None:
        """Merge contacts into one path of each lookup, closest first, each id once."""
        ids = np.where(ids == self._sources[rows, None], ABSENT, ids)
        used = int(self._queries[rows].max(initial=0))
        known = ids[:, :, None] == self._asked_ids[rows, None, :used]
        earlier = np.where(known, self._asked_state[rows, None, :used], 0).max(axis=2, initial=0)
        width = ids.shape[1]
        merged_ids = np.concatenate([self._ids[rows, path], ids], axis=1)
        state = np.concatenate([self._state[rows, path], earlier.astype(np.int8)], axis=1)
        answers = np.concatenate([self._alive[rows, path], alive], axis=1)
        fresh = np.broadcast_to(hops[:, None], (len(rows), width))
        far = np.concatenate([self._hops[rows, path], fresh], axis=1)
        distance = np.where(merged_ids == ABSENT, _FAR, merged_ids ^ self._targets[rows, None])
        distance = _without_repeats(distance)
        order = np.argsort(distance, axis=1, kind="stable")[:, : self._ids.shape[2]]
        self._distance[rows, path] = np.take_along_axis(distance, order, axis=1)
        kept = np.take_along_axis(merged_ids, order, axis=1)
        self._ids[rows, path] = np.where(self._distance[rows, path] == _FAR, ABSENT, kept)
        self._state[rows, path] = np.take_along_axis(state, order, axis=1)
        self._alive[rows, path] = np.take_along_axis(answers, order, axis=1)
        self._hops[rows, path] = np.take_along_axis(far, order, axis=1)

    def _ask(self, rows: Positions) -> None:
        """Start queries within the limits, first on paths with fewer queries in flight."""
        while len(rows):
            free = self._in_flight[rows].sum(axis=1) < self._settings.alpha
            free &= self._queries[rows] < self._settings.lookup_max_queries
            rows = rows[free]
            if not len(rows):
                return
            candidate = self._next(rows)
            load = np.where(candidate >= 0, self._in_flight[rows], np.iinfo(np.int64).max)
            path = np.argmin(load, axis=1)
            index = candidate[np.arange(len(rows)), path]
            able = index >= 0
            rows, path, index = rows[able], path[able], index[able]
            self._start(rows, path, index)

    def _next(self, rows: Positions) -> Positions:
        """Return each path's nearest unasked candidate among its k nearest living, or -1."""
        state = self._state[rows]
        there = self._distance[rows] != _FAR
        living = np.cumsum((state == _ASKED) | (state == _ANSWERED), axis=2) < self._settings.k
        able = there & (state == _UNASKED) & living
        first = np.argmax(able, axis=2)
        return np.where(able.any(axis=2), first, -1)

    def _start(self, rows: Positions, path: Positions, index: Positions) -> None:
        if not len(rows):
            return
        node, slot = self._ids[rows, path, index], self._queries[rows]
        alive = self._alive[rows, path, index]
        first_hand = self._hops[rows, path, index] == 0
        took = np.where(alive, self._times.answered(first_hand), self._times.silence(first_hand))
        self._asked_ids[rows, slot] = node
        self._asked_state[rows, slot] = _ASKED
        self._asked_path[rows, slot] = path
        self._asked_hops[rows, slot] = self._hops[rows, path, index]
        self._asked_alive[rows, slot] = alive
        self._ends[rows, slot] = self._now[rows] + took
        self._queries[rows] += 1
        self._in_flight[rows, path] += 1
        same = self._ids[rows] == node[:, None, None]
        self._state[rows] = np.where(same, np.int8(_ASKED), self._state[rows])


def _without_repeats(distance: Ids) -> Ids:
    """Mark repeated distances in a row as far away, because they belong to the same node."""
    order = np.argsort(distance, axis=1, kind="stable")
    ordered = np.take_along_axis(distance, order, axis=1)
    again = np.zeros(distance.shape, np.bool_)
    np.put_along_axis(again, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    return np.where(again, _FAR, distance)
