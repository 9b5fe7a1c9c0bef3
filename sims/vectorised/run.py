"""Run the vectorised model, with the arguments and results of the full simulation.

::

    population ──advance──▶ sessions ──attention──▶ tables ──▶ lookups, buckets, traffic
                               │  └──▶ records and their holders
                               └──▶ clients' topology tables ──▶ coverage, paths
"""

from __future__ import annotations

import hashlib
import resource
import time
from typing import Final

import numpy as np

from overlay.dht.descriptor import RESIGN_INTERVAL_S
from overlay.dht.publishing import FIRST_REPUBLISH_S
from overlay.dht.settings import DhtSettings
from sims.observations import Observations, Progress, RunOutcome, ShouldStop, ShowProgress
from sims.scenario.scenario import AUTHOR_ONLINE_S, Scenario
from sims.vectorised.habits import Habits
from sims.vectorised.lookups import LookupResults
from sims.vectorised.measures import Measures
from sims.vectorised.moment import Moment
from sims.vectorised.population import VectorisedPopulation
from sims.vectorised.schedule import LASTS_S, LOOKUP_TAKES_S
from sims.vectorised.settings import Bounds, check_expressible
from sims.vectorised.topology import TopologyTables
from sims.world.churn import SessionModel
from sims.world.engine.streams import Streams

__all__ = ["run_model"]

_LINGERS_S: Final = 1200.0
"""Time for which nodes still name one that left: until the last of k near nodes called it."""

_STORED_AFTER_S: Final = LOOKUP_TAKES_S + np.array([0.0, FIRST_REPUBLISH_S])
"""A node that publishes once stores its record after the join and again a minute later."""

_LEAST_ANSWERED: Final = 0.05
"""With fewer nodes, directly after most have failed, mean rates of calls are meaningless."""

_FIRST_QUERIES: Final = 1.5
"""Initial guess of queries per lookup, in units of k, until the first sample counts them."""


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
        scenario: what to simulate.
        sessions: its session model.
        settings: its DHT settings.
        seed: equal seeds give equal outcomes.
        bounds: sizes of the random samples.
        progress: called with the progress at each sample.
        should_stop: a result of True ends the run early, with the measurements so far.

    Raises:
        ConfigurationError: the model does not support a setting of the scenario.
    """
    check_expressible(scenario)
    started = time.perf_counter()  # wall time, only for the report
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
    """The state of one run; each step leads to the next sample."""

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
        self._scenario, self._settings, self._sessions = scenario, settings, sessions
        self._rng = np.random.default_rng(Streams(seed).number("model"))
        self._population = VectorisedPopulation(
            scenario.nodes,
            sessions,
            self._rng,
            memory_s=LASTS_S + RESIGN_INTERVAL_S,
            always=scenario.circuits.clients,
        )
        self._measures = Measures(self.observations, settings, bounds, self._rng)
        clients = min(bounds.clients, scenario.circuits.clients or bounds.clients)
        self._topology = TopologyTables(clients, settings, self._rng)
        self._authors = self._rng.integers(1, 2**64, scenario.records, dtype=np.uint64)
        self._authors_left = False
        self._failed = scenario.arrival.kind != "mass-failure"
        self._queries, self._answered, self._first_hand = _FIRST_QUERIES * settings.k, 1.0, 0.4

    def step(self) -> None:
        """Advance to the next sample and take it."""
        then = min(self.now + self._scenario.sample_interval_s, self._scenario.total_s)
        joins, leaves = self._population.joins, self._population.leaves
        self._fail_if_due(then)
        while (crawl := self._topology.next_crawl()) <= then:
            self._population.advance(crawl)
            adversary = self._scenario.adversary
            self._topology.crawl(self._population, crawl, _LINGERS_S, adversary.share)
        self._population.advance(then)
        if not self._authors_left and self._scenario.warm_up_s <= then:
            self._authors_left = True
            until = self._scenario.warm_up_s
            self._population.visited(self._authors, max(0.0, until - AUTHOR_ONLINE_S), until)
        per_hour = 3600.0 / (then - self.now)
        self.now = then
        self._note("joins_per_hour", (self._population.joins - joins) * per_hour)
        self._note("leaves_per_hour", (self._population.leaves - leaves) * per_hour)
        self._sample()
        self.samples += 1

    def _fail_if_due(self, then: float) -> None:
        arrival = self._scenario.arrival
        at = self._scenario.warm_up_s + arrival.at_s
        if not self._failed and at < then:
            self._failed = True
            self._population.advance(at)
            self._population.fail(arrival.share or 0.0, at)

    def _sample(self) -> None:
        self.online = int(self._population.online.sum())
        self._note("online_nodes", self.online)
        self._note("online_share", self.online / self._scenario.nodes)
        if self.online <= self._settings.k:
            return  # too few nodes for an overlay, so nothing is measured
        habits = self._habits()
        moment = Moment.of(
            self._scenario, self._settings, self._population.sessions(), habits, self.now, self._rng
        )
        measures = self._measures
        measures.tables(moment)
        wanted = int(habits.lookups_per_s * self._scenario.sample_interval_s * self.online)
        found = measures.lookups(moment, wanted)
        self._learn(found)
        measures.traffic(moment, habits, found, self._scenario.circuits.clients)
        stored_at = max(0.0, self._scenario.warm_up_s - AUTHOR_ONLINE_S) + _STORED_AFTER_S
        once = self._authors_left and len(self._authors)
        measures.records(moment, (self._authors, stored_at) if once else None)
        hops = self._scenario.circuits.hops if self._scenario.circuits.clients else 0
        measures.topology(moment, self._topology, hops)

    def _habits(self) -> Habits:
        leaving = (1 - self._sessions.permanent_share) / self._sessions.on.mean()
        return Habits(
            online=self.online,
            leaving_per_s=leaving,
            lookups_per_s=self._scenario.lookups_per_hour / 3600,
            queries=self._queries,
            answered=self._answered,
            first_hand=self._first_hand,
        )

    def _learn(self, found: LookupResults) -> None:
        """Derive the rates of the next sample from the lookups of this one."""
        self.lookups += len(found.queries)
        self._queries = float(found.queries.mean())
        silent = float(found.silent.sum() / max(found.queries.sum(), 1))
        self._answered = max(_LEAST_ANSWERED, 1 - silent)
        self._first_hand = float(found.first_hand.sum() / max(found.queries.sum(), 1))

    def _note(self, metric: str, value: float) -> None:
        self._measures.note(self.now, metric, value)


def _digest(observations: Observations) -> str:
    digest = hashlib.sha256()
    for each in observations:
        digest.update(repr(tuple(each)).encode())
    return digest.hexdigest()
