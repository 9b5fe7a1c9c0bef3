"""Measure one moment of the model, with the same metrics as the full simulation."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from overlay.dht.settings import DhtSettings
from sims.metrics import DEEPEST_BUCKET
from sims.observations import Observations
from sims.vectorised.fetching import fetch
from sims.vectorised.habits import Habits
from sims.vectorised.lookups import LookupResults, look_up
from sims.vectorised.moment import Moment
from sims.vectorised.records import Holders, holders_of
from sims.vectorised.schedule import LASTS_S
from sims.vectorised.settings import Bounds
from sims.vectorised.tables import ABSENT, Replies
from sims.vectorised.topology import TopologyTables
from sims.vectorised.traffic import Conversation, messages_per_node_s
from sims.vectorised.xor import Ids, closest, merged

__all__ = ["ONCE", "Measures"]

Floats = npt.NDArray[np.float64]

ONCE: Final = "once"
"""Label of records that are published once, as in the full simulation."""

_FEWEST_LOOKUPS: Final = 50
"""Lookups per sample at least, because the traffic is computed from them."""

_OWN_WALKS: Final = 20
_PATHS: Final = 5
"""Paths drawn per client and sample."""


class Measures:
    """Write the measurements of a moment into the observations of a run."""

    def __init__(
        self,
        observations: Observations,
        settings: DhtSettings,
        bounds: Bounds,
        rng: np.random.Generator,
    ) -> None:
        self._observations = observations
        self._settings, self._bounds, self._rng = settings, bounds, rng

    def note(self, now: float, metric: str, value: float, label: str = "") -> None:
        """Record one value."""
        self._observations.add(now, metric, value, label)

    def tables(self, moment: Moment) -> None:
        """Record the fill of tables, the departed contacts, and the known near nodes."""
        k, count = self._settings.k, min(self._bounds.tables, len(moment.honest))
        holders = self._rng.choice(moment.honest, count, replace=False)
        depths = range(min(DEEPEST_BUCKET, len(moment.live).bit_length() + 4))
        buckets = [moment.tables.bucket(holders, depth) for depth in depths]
        held = np.stack([(each.ids != ABSENT).sum(axis=1) for each in buckets])
        alive = np.stack([np.isin(each.ids, moment.live).sum(axis=1) for each in buckets])
        contacts = held.sum(axis=0)
        for depth, fill in zip(depths, held.mean(axis=1), strict=True):
            if fill:
                self.note(moment.now, "bucket_fill", float(fill), f"bucket-{depth}")
        self.note(moment.now, "table_contacts", float(contacts.mean()))
        stale = 1 - alive.sum(axis=0) / np.maximum(contacts, 1)
        self.note(moment.now, "table_stale_share", float(stale.mean()))
        self.note(moment.now, "neighbours_known", self._known_share(moment, holders, buckets, k))

    def _known_share(self, moment: Moment, holders: Ids, buckets: list[Replies], k: int) -> float:
        nearest = closest(moment.live, holders, min(k + 1, len(moment.live)))[:, 1:]
        contacts = np.concatenate([each.ids for each in buckets], axis=1)
        return float((nearest[:, :, None] == contacts[:, None, :]).any(axis=2).mean())

    def lookups(self, moment: Moment, wanted: int) -> LookupResults:
        """Look up records of some nodes, and record the results of up to ``wanted`` lookups.

        Returns:
            The results of all lookups, from which rates are derived.
        """
        count = max(min(self._bounds.lookups, wanted), _FEWEST_LOOKUPS)
        sources = self._rng.choice(moment.honest, count)
        others = self._rng.choice(moment.honest, count)
        # A node does not look itself up. If it drew itself, it takes the next id.
        following = np.searchsorted(moment.honest, others) + 1
        targets = np.where(others == sources, moment.honest[following % len(moment.honest)], others)
        found = look_up(moment.tables, sources, targets, self._settings, moment.timing)
        if wanted:
            self._note_lookups(moment, found, sources, targets, min(wanted, count))
        return found

    def _note_lookups(
        self, moment: Moment, found: LookupResults, sources: Ids, targets: Ids, count: int
    ) -> None:
        success, fetched_s = self._fetch(moment, found, targets)
        share = self._closest_share(moment, found, sources, targets)
        for index in range(count):
            self.note(moment.now, "lookup_success", float(success[index]))
            self.note(moment.now, "lookup_hops", float(found.hops[index]))
            latency_s = float(found.latency_s[index] + fetched_s[index])
            self.note(moment.now, "lookup_latency_s", latency_s)
            self.note(moment.now, "lookup_queries", float(found.queries[index]))
            self.note(moment.now, "lookup_closest_share", float(share[index]))

    def _fetch(
        self, moment: Moment, found: LookupResults, targets: Ids
    ) -> tuple[npt.NDArray[np.bool_], Floats]:
        asked = (found.closest != ABSENT) & (found.closest != targets[:, None])
        has_it = self.holders(moment, targets).among(found.closest)
        return fetch(asked, has_it, moment.timing)

    def _closest_share(
        self, moment: Moment, found: LookupResults, sources: Ids, targets: Ids
    ) -> Floats:
        k = self._settings.k
        nearest = closest(moment.live, targets, min(k + 1, len(moment.live)))
        others = nearest != sources[:, None]
        counted = others & (np.cumsum(others, axis=1) <= k)
        hit = (nearest[:, :, None] == found.closest[:, None, :]).any(axis=2) & counted
        share: Floats = hit.sum(axis=1) / np.maximum(counted.sum(axis=1), 1)
        return share

    def holders(self, moment: Moment, owners: Ids) -> Holders:
        """Return the holders of records of nodes that are on line."""
        since = moment.since[np.searchsorted(moment.live, owners)]
        began = np.where(np.isneginf(since), 0.0, since)
        held = holders_of(
            moment.sessions,
            owners,
            moment.publications.of(since, moment.now),
            self._settings.k,
            len(moment.honest),
            began + moment.attention.region_known_after_s(),
            moment.hostile,
        )
        if moment.now >= LASTS_S:
            return held
        # Nodes that are on line at the start have stored their descriptor before.
        at_first = np.where(np.isneginf(since), 0.0, np.nan)[:, None]
        never = np.full(len(owners), np.inf)
        laid_out = holders_of(
            moment.sessions, owners, at_first, self._settings.k, len(moment.live), never
        )
        return Holders(held.ids, held.there | laid_out.there, held.rank)

    def records(self, moment: Moment, once: tuple[Ids, Floats] | None) -> None:
        """Record the number of holders, for records of on-line nodes and for those stored once."""
        count = min(self._bounds.records, len(moment.honest))
        owners = self._rng.choice(moment.honest, count, replace=False)
        held = self.holders(moment, owners)
        near = held.there & (held.rank < 2 * self._settings.k)
        self._note_holders(moment.now, near.sum(axis=1), "")
        if once is not None:
            keys, stored_at = once
            times = np.tile(stored_at, (len(keys), 1))
            never = np.full(len(keys), np.inf)
            kept = holders_of(
                moment.sessions,
                keys,
                times,
                self._settings.k,
                len(moment.honest),
                never,
                moment.hostile,
            )
            self._note_holders(moment.now, kept.there.sum(axis=1), ONCE)

    def _note_holders(self, now: float, holders: npt.NDArray[np.int64], label: str) -> None:
        self.note(now, "record_holders", float(holders.mean()), label)
        self.note(now, "record_survival", float((holders > 0).mean()), label)

    def traffic(self, moment: Moment, habits: Habits, found: LookupResults, crawling: int) -> None:
        """Record the number of datagrams that a node sends per second."""
        own = self._rng.choice(moment.honest, min(_OWN_WALKS, len(moment.honest)), replace=False)
        walked = look_up(moment.tables, own, own, self._settings, moment.timing)
        rate = messages_per_node_s(
            self._settings,
            habits,
            moment.attention,
            (moment.publishing_per_s, moment.cookie_share),
            (Conversation.of(found), Conversation.of(walked)),
            moment.timing.cookies,
            crawling,
        )
        self.note(moment.now, "messages_per_node_s", rate)

    def topology(self, moment: Moment, clients: TopologyTables, hops: int) -> None:
        """Record what clients know, and whether paths chosen from it would work."""
        now, live = moment.now, moment.live
        tables = [clients.table(client, now) for client in range(len(clients))]
        for client, table in enumerate(tables):
            if not len(table):
                continue
            alive = np.isin(table, live, assume_unique=True)
            self.note(now, "mtt_coverage", float(alive.sum()) / len(live))
            self.note(now, "mtt_staleness", float(1 - alive.mean()))
            hostile = np.isin(table, moment.sessions.ids[moment.hostile]).mean()
            if len(moment.honest) < len(live):
                fair = 1 - len(moment.honest) / len(live)
                self.note(now, "mtt_adversary_ratio", float(hostile) / fair)
            eligible = clients.eligible(client, now)
            if hops and len(eligible) >= hops:
                there = np.isin(eligible, live, assume_unique=True)
                for _ in range(_PATHS):
                    chosen = self._rng.choice(len(eligible), hops, replace=False)
                    self.note(now, "path_first_try", float(there[chosen].all()))
        for one, other in zip(tables[::2], tables[1::2], strict=False):
            common = len(one) + len(other) - len(merged(one, other))
            if len(one) + len(other):
                self.note(now, "mtt_overlap", common / (len(one) + len(other) - common))
