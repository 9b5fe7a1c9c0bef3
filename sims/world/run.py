"""Run one scenario with one seed at full fidelity."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from overlay.dht.events import DhtEvent, Joined
from overlay.dht.settings import DhtSettings
from overlay.settings import read_settings
from sims.observations import Observations, Progress, RunOutcome
from sims.scenario.scenario import Scenario
from sims.world.adversary.adversary import AdversaryMeasure, ScenarioAdversary
from sims.world.engine.collector import freeze, patient_collector
from sims.world.engine.streams import Streams
from sims.world.latency import build_latency
from sims.world.measures.joining import JoinMeasure
from sims.world.measures.lookups import LookupMeasure
from sims.world.measures.recovery import RecoveryMeasure
from sims.world.measures.tables import RecordMeasure, TableMeasure
from sims.world.measures.topology import TopologyMeasure
from sims.world.measures.traffic import ChurnMeasure, TrafficMeasure
from sims.world.participants.authors import Authors
from sims.world.participants.carriers import EncodedCarrier, ValueCarrier
from sims.world.participants.clients import ScenarioClients
from sims.world.participants.machine import Machine
from sims.world.participants.population import ScenarioPopulation
from sims.world.participants.protocols import Clients, ScheduledPopulation, WorldAdversary
from sims.world.participants.recorder import Recorder, Sampled
from sims.world.participants.shocks import Shocks
from sims.world.participants.world import START, World

__all__ = ["Simulation", "run"]

CLIENT_HEAD_START_S: Final = 120.0
"""Time before the end of the warm-up at which clients request their first paths, in seconds."""


def run(
    scenario: Scenario,
    seed: int,
    *,
    progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> RunOutcome:
    """Simulate a scenario at full fidelity.

    Args:
        scenario: what to simulate.
        seed: the source of all random streams.
        progress: called every few thousand events.
        should_stop: called as often. The result True ends the run early.

    Raises:
        ConfigurationError: the scenario names something that does not exist.
    """
    began = time.perf_counter()
    with patient_collector():
        simulation = Simulation(scenario, seed)
        complete = simulation.run(progress, should_stop)
        return simulation.outcome(complete, time.perf_counter() - began)


def _world(
    scenario: Scenario,
    streams: Streams,
    *,
    adversary: Callable[[World], WorldAdversary],
    population: Callable[[World], ScheduledPopulation],
    clients: Callable[[World], Clients],
) -> World:
    return World(
        streams,
        read_settings("dht", DhtSettings, scenario.dht),
        build_latency(
            scenario.latency.model,
            low_s=scenario.latency.low_s,
            high_s=scenario.latency.high_s,
            matrix=Path(scenario.latency.matrix) if scenario.latency.matrix else None,
        ),
        EncodedCarrier() if scenario.verify_signatures else ValueCarrier(),
        adversary=adversary,
        population=population,
        clients=clients,
        loss=scenario.latency.loss,
    )


class Simulation:
    """One run, from its start to its outcome. Tests and experiments also inspect it.

    Args:
        scenario: what to simulate.
        seed: the source of all random streams.
        adversary: is called with the world, for another adversary than that of the scenario.
        population: is called with the world, for another population.
        clients: is called with the recorder of the measures, for other clients.

    Raises:
        ConfigurationError: the scenario names something that does not exist.
    """

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        *,
        adversary: Callable[[World], WorldAdversary] | None = None,
        population: Callable[[World], ScheduledPopulation] | None = None,
        clients: Callable[[Recorder], Clients] | None = None,
    ) -> None:
        self.scenario = scenario
        self.seed = seed
        self.observations = Observations()
        build_population = population or partial(ScenarioPopulation, scenario=scenario)
        build_clients = clients or partial(ScenarioClients, settings=scenario.circuits)

        def populate(world: World) -> ScheduledPopulation:
            self.population = build_population(world)
            return self.population

        self.world = world = _world(
            scenario,
            Streams(seed),
            adversary=adversary
            or partial(ScenarioAdversary, settings=scenario.adversary, population=scenario.nodes),
            population=populate,
            clients=lambda world: build_clients(Recorder(world, self.observations)),
        )
        world.listeners.append(self._heard)
        world.switch_listeners.append(self._switched)
        self._strangers: dict[int, Machine] = {}
        self._make_measures(Recorder(world, self.observations))

    def _make_measures(self, recorder: Recorder) -> None:
        scenario, world, streams = self.scenario, self.world, self.world.streams
        self.lookups = LookupMeasure(recorder, streams.stream("lookups"), scenario.lookups_per_hour)
        self._churn = ChurnMeasure(recorder, scenario.nodes)
        self._joins = JoinMeasure(recorder)
        self._authors = Authors(recorder, scenario.records, scenario.warm_up_s)
        # In this order, because results list the measurements of one moment in it.
        self._sampled: list[Sampled] = [
            self._churn,
            TrafficMeasure(recorder),
            TableMeasure(recorder, streams.stream("sample", "tables")),
            RecordMeasure(recorder, streams.stream("sample", "records")),
            AdversaryMeasure(recorder, world.adversary),
            TopologyMeasure(recorder, world.clients.watched),
            self._authors,
        ]
        self._shocks = Shocks(world, self.population, scenario, streams.stream("shocks"))
        self._recovery: RecoveryMeasure | None = None
        if self._shocks.healed_at_s is not None:
            self._recovery = RecoveryMeasure(recorder, self._shocks.at_s, self._shocks.healed_at_s)
            self.lookups.results.append(self._recovery.finished)
            self._sampled.append(self._recovery)

    def run(
        self,
        progress: Callable[[Progress], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> bool:
        """Run to the end; return False if ``should_stop`` ended it early."""
        heap = self.world.heap
        self.population.begin()
        freeze()
        self.world.adversary.begin(self.population.rendezvous)
        self.lookups.target = self.world.adversary.target
        self._shocks.plan()
        self._authors.plan()
        self.lookups.begin()
        self.world.clients.begin(max(0.0, self.scenario.warm_up_s - CLIENT_HEAD_START_S))
        heap.at(START + self.scenario.sample_interval_s, self._sample)

        def stop() -> bool:
            if progress is not None:
                progress(self.progress())
            return should_stop is not None and should_stop()

        complete = heap.run(START + self.scenario.total_s, stop)
        if complete:
            self._churn.end()
        if complete and self._recovery is not None:
            self._recovery.end()
        return complete

    def progress(self) -> Progress:
        """Return the progress of the run."""
        world = self.world
        return Progress(
            self.seed, world.time_s, self.scenario.total_s, world.network.sent, len(world.alive)
        )

    def outcome(self, complete: bool, wall_s: float) -> RunOutcome:
        """Return the measurements so far."""
        network = self.world.network
        counters = {
            "datagrams": network.sent,
            "delivered": network.delivered,
            "lost": network.lost,
            "bytes": network.bytes_sent,
            "events": self.world.heap.fired,
            "lookups": self.lookups.started,
            "machines": len(self.world.machines),
        }
        return RunOutcome(
            seed=self.seed,
            observations=self.observations,
            digest=network.digest.hexdigest(),
            counters=counters,
            complete=complete,
            simulated_s=self.world.time_s,
            wall_s=wall_s,
            peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        )

    def _heard(self, machine: Machine, event: DhtEvent) -> None:
        """Let a node of a flash crowd look up the key as soon as it is a member."""
        if isinstance(event, Joined) and self._strangers.pop(machine.index, None) is not None:
            heap = self.world.heap
            heap.at(heap.now, self._look_up_the_key, machine)

    def _look_up_the_key(self, machine: Machine, _: object) -> None:
        self.lookups.look_up(machine, self.population.rendezvous)

    def _sample(self, _one: object, _other: object) -> None:
        for measure in self._sampled:
            measure.sample()
        heap = self.world.heap
        heap.at(heap.now + self.scenario.sample_interval_s, self._sample)

    def _switched(self, machine: Machine, online: bool, seen_whole: bool) -> None:
        if machine is not self.population.rendezvous:
            self._churn.switched(machine, online=online, seen_whole=seen_whole)
        if online and seen_whole:
            self._joins.started(machine)
        if not online:
            self.world.clients.left(machine)
        elif self.scenario.arrival.kind == "flash-crowd" and self.population.is_newcomer(machine):
            self._strangers[machine.index] = machine
