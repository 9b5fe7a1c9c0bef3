"""One run of the model, with the same question and the same answer as the full simulation.

::

    population ──advance──▶ who is on-line ──▶ tables ──▶ lookups, bucket fill
        │                         └──▶ clients' topology tables ──▶ coverage, paths
        └──▶ records and their holders
"""

from __future__ import annotations

import hashlib
import resource
import time
from typing import Final

import numpy as np

from overlay.dht.settings import DhtSettings
from sims.churn import SessionModel
from sims.engine.streams import Streams
from sims.model.lookups import LookupResults, RoundTrips, look_up
from sims.model.population import Population
from sims.model.records import Records
from sims.model.settings import Bounds, check_expressible, notice_s, silence_s
from sims.model.tables import Tables, bucket_fill
from sims.model.topology import TopologyTables
from sims.model.xor import Ids, closest, merged
from sims.results.model import Observations, Progress, RunOutcome, ShouldStop, ShowProgress
from sims.scenario.model import Scenario

__all__ = ["run_model"]

_VALIDITY_S: Final = 3 * 3600.0
_RESIGN_S: Final = 3600.0


def run_model(
    scenario: Scenario,
    sessions: SessionModel,
    settings: DhtSettings,
    seed: int,
    *,
    bounds: Bounds | None = None,
    progress: ShowProgress | None = None,
    should_stop: ShouldStop | None = None,
) -> RunOutcome:
    """Run one scenario with one seed.

    Args:
        scenario: what is asked.
        sessions: its churn model, resolved.
        settings: its DHT settings, resolved.
        seed: equal seeds give equal outcomes.
        bounds: how much is drawn for each sample.
        progress: told how far the run is, once a sample.
        should_stop: True ends the run early, with what was measured.

    Raises:
        ConfigurationError: the scenario asks for what the model does not know.
    """
    check_expressible(scenario)
    started = time.perf_counter()  # of the report alone: how long the run took
    model = _Model(scenario, sessions, settings, seed, bounds or Bounds())
    complete = True
    while model.now < scenario.total_s:
        if should_stop is not None and should_stop():
            complete = False
            break
        model.step()
        if progress is not None:
            progress(Progress(seed, model.now, scenario.total_s, 0, model.online))
    return RunOutcome(
        seed=seed,
        observations=model.observations,
        digest=_digest(model.observations),
        counters={"lookups": model.lookups, "samples": model.samples},
        complete=complete,
        simulated_s=model.now,
        wall_s=time.perf_counter() - started,
        peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


class _Model:
    """The state of one run; a step leads to the next sample of the overlay's state."""

    def __init__(
        self,
        scenario: Scenario,
        sessions: SessionModel,
        settings: DhtSettings,
        seed: int,
        bounds: Bounds,
    ) -> None:
        self.observations = Observations()
        self.now = 0.0
        self.lookups = self.samples = self.online = 0
        self._scenario, self._settings, self._bounds = scenario, settings, bounds
        self._rng = np.random.default_rng(Streams(seed).number("model"))
        self._population = Population(scenario.nodes, sessions, self._rng)
        self._records: Records | None = None
        clients = min(bounds.clients, scenario.circuits.clients or bounds.clients)
        self._topology = TopologyTables(
            clients, settings.crawl_interval_s, _VALIDITY_S, _RESIGN_S, self._rng
        )
        self._circuit_hops = scenario.circuits.hops if scenario.circuits.clients else 0
        self._failed = scenario.arrival.kind != "mass-failure"
        self._round_trips = _round_trips(scenario, self._rng)

    def step(self) -> None:
        """Advance to the next sample and take it."""
        then = min(self.now + self._scenario.sample_interval_s, self._scenario.total_s)
        joins, leaves = self._population.joins, self._population.leaves
        self._fail_if_due(then)
        while (crawl := self._topology.next_crawl()) <= then:
            self._population.advance(crawl)
            self._topology.crawl(self._population, crawl)
        self._population.advance(then)
        per_hour = 3600.0 / (then - self.now)
        self.now = then
        self._note("joins_per_hour", (self._population.joins - joins) * per_hour)
        self._note("leaves_per_hour", (self._population.leaves - leaves) * per_hour)
        self._sample()
        self.samples += 1

    def _fail_if_due(self, then: float) -> None:
        arrival = self._scenario.arrival
        at = self._scenario.warm_up_s + arrival.at_s
        if not self._failed and at <= then:
            self._failed = True
            self._population.advance(at)
            self._population.fail(arrival.share or 0.0, at)

    def _sample(self) -> None:
        live = self._population.live()
        self.online = len(live)
        self._note("online_nodes", len(live))
        self._note("online_share", len(live) / self._scenario.nodes)
        if len(live) <= self._settings.k:
            return  # too few for an overlay: nothing to measure
        gone = self._population.remembered(
            self.now, notice_s(self._settings, self._scenario, len(live))
        )
        silent = self._dropping(live)
        answering = np.setdiff1d(live, silent) if len(silent) else live
        self._note("table_stale_share", len(gone) / (len(gone) + len(live)))
        self._sample_buckets(merged(live, gone))
        self._sample_lookups(Tables(answering, merged(gone, silent), self._settings.k, self._rng))
        self._sample_records()
        self._sample_topology(live)

    def _dropping(self, live: Ids) -> Ids:
        """Return the adversary's nodes, which answer nothing; the same as long as they live."""
        adversary = self._scenario.adversary
        if "drop" not in adversary.behaviours:
            return live[:0]
        share = adversary.share * adversary.drop_probability
        return live[live % np.uint64(1_000_003) < np.uint64(round(share * 1_000_003))]

    def _sample_buckets(self, known: Ids) -> None:
        depths = range(max(4, len(known).bit_length()))
        fill = bucket_fill(known, self._settings.k, depths, self._rng, self._bounds.tables)
        for depth, contacts in zip(depths, fill, strict=True):
            self._note("bucket_fill", float(contacts), f"bucket-{depth}")
        self._note("table_contacts", float(fill.sum()))

    def _sample_lookups(self, tables: Tables) -> None:
        wanted = self._scenario.lookups_per_hour / 3600 * self._scenario.sample_interval_s
        count = min(self._bounds.lookups, int(wanted * len(tables.live)))
        if not count:
            return
        sources = self._rng.choice(tables.live, count)
        targets = self._rng.choice(tables.live, count)
        found = look_up(
            tables, sources, targets, self._settings, self._round_trips, silence_s(self._settings)
        )
        self.lookups += count
        self._note_lookups(found, targets, tables.live)

    def _note_lookups(self, found: LookupResults, targets: Ids, live: Ids) -> None:
        k = self._settings.k
        nearest = closest(live, targets, min(k, len(live)))
        share = (nearest[:, :, None] == found.closest[:, None, :]).any(axis=2).mean(axis=1)
        success = found.closest[:, 0] == targets
        for index in range(len(targets)):
            self._note("lookup_success", float(success[index]))
            self._note("lookup_hops", float(found.hops[index]))
            self._note("lookup_latency_s", float(found.latency_s[index]))
            self._note("lookup_queries", float(found.queries[index]))
            self._note("lookup_closest_share", float(share[index]))

    def _sample_records(self) -> None:
        count = self._scenario.records
        if not count or self.now < self._scenario.warm_up_s:
            return
        if self._records is None:
            self._records = Records.stored(self._population, count, self._settings.k, self._rng)
        holders = self._records.holders(self._population)
        self._note("record_holders", float(holders.mean()))
        self._note("record_survival", float((holders > 0).mean()))

    def _sample_topology(self, live: Ids) -> None:
        tables = [self._topology.table(client, self.now) for client in range(len(self._topology))]
        for table in tables:
            if not len(table):
                continue
            alive = np.isin(table, live, assume_unique=True)
            self._note("mtt_coverage", float(alive.sum()) / len(live))
            self._note("mtt_staleness", float(1 - alive.mean()))
            if self._circuit_hops and len(table) >= self._circuit_hops:
                chosen = self._rng.choice(len(table), self._circuit_hops, replace=False)
                self._note("path_first_try", float(alive[chosen].all()))
        for one, other in zip(tables[::2], tables[1::2], strict=False):
            common = len(one) + len(other) - len(merged(one, other))
            if len(one) + len(other):
                self._note("mtt_overlap", common / (len(one) + len(other) - common))

    def _note(self, metric: str, value: float, label: str = "") -> None:
        self.observations.add(self.now, metric, value, label)


def _round_trips(scenario: Scenario, rng: np.random.Generator) -> RoundTrips:
    latency = scenario.latency
    low = latency.low_s
    high = latency.high_s if latency.model == "uniform" else low
    return lambda count: rng.uniform(low, high, count) + rng.uniform(low, high, count)


def _digest(observations: Observations) -> str:
    digest = hashlib.sha256()
    for each in observations:
        digest.update(repr(tuple(each)).encode())
    return digest.hexdigest()
