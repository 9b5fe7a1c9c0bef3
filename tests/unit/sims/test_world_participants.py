"""An adversary, a population and clients from outside: arguments of a world, or an entry point."""

import os
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import pytest

from overlay.dht.settings import DhtSettings
from overlay.errors import ConfigurationError
from overlay.plugins import load_plugin
from sims.scenario.scenario import Adversary, Churn, Scenario
from sims.scenario.sections import ATTACKS
from sims.world.engine.streams import Streams
from sims.world.latency import Uniform
from sims.world.participants.carriers import ValueCarrier
from sims.world.participants.protocols import (
    Clients,
    Population,
    ScheduledPopulation,
    WorldAdversary,
)
from sims.world.participants.world import World
from sims.world.run import Simulation

TESTS = Path(__file__).parents[2]

PROGRAM = """
from statistics import fmean
from sims.scenario.scenario import Adversary, Churn, Scenario
from sims.scenario.sections import BEHAVIOURS
from sims.world.run import run

def closest(adversary):
    scenario = Scenario(nodes=30, duration_s=120.0, warm_up_s=30.0, lookups_per_hour=120.0,
                        churn=Churn("none"), adversary=adversary, dht={"k": 4, "disjoint_paths": 1})
    outcome = run(scenario, 1)
    values = [o.value for o in outcome.observations if o.metric == "lookup_closest_share"]
    return fmean(values)

assert "silence" in BEHAVIOURS
print(closest(Adversary(0.6, ("silence",))) < closest(Adversary()) - 0.05)
"""


def test_an_attack_of_another_distribution_acts_in_a_scenario():
    paths = (TESTS / "outside", TESTS.parent)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.strip(), done.returncode) == ("True", 0), done.stderr


def test_an_attack_that_is_not_installed_is_refused_by_name():
    with pytest.raises(ConfigurationError, match="silence"):
        Adversary(0.5, ("silence",))


def test_an_attack_that_needs_malicious_nodes_is_refused_without_them():
    with pytest.raises(ConfigurationError, match="no node is malicious"):
        Adversary(0.0, ("drop",))
    assert Adversary(0.0, ("sybil",)).is_there


class Muting(WorldAdversary):
    """Drops every packet of a circuit or link at a malicious relay, and is told its victim."""

    def __init__(self, world):
        self.world, self.victim, self.made = world, None, []

    def begin(self, victim):
        self.victim = victim

    def envelopes(self, machine, honest):
        self.made.append(machine)
        return honest


class Twins(ScheduledPopulation):
    """Four machines that are on line, of which the last is malicious, all exits, all crawling."""

    def __init__(self, world):
        self.world = world
        self.machines = [world.add(honest=index < 3) for index in range(4)]
        self.rendezvous = self.machines[0]
        self.machines[1].is_client = True
        world.bootstrap = (self.rendezvous.endpoint,)

    def begin(self):
        self.world.resume(self.machines)
        for machine in self.machines:
            self.world.on_switch(machine, online=True, seen_whole=False)

    def is_exit(self, machine):
        return machine.index > 0

    def crawls(self, machine):
        return machine.index < 2

    def publishes(self, machine):
        return machine.index != 2


class Counting(Clients):
    def __init__(self, recorder):
        self.recorder, self.begun = recorder, None

    def begin(self, after_s):
        self.begun = after_s
        self.recorder.add("path_available", 1.0)


def test_a_simulation_takes_an_adversary_a_population_and_clients():
    scenario = Scenario(nodes=4, duration_s=120.0, warm_up_s=150.0, churn=Churn("none"))
    simulation = Simulation(scenario, 1, adversary=Muting, population=Twins, clients=Counting)
    assert simulation.run()
    world = simulation.world
    assert len(world.machines) == 4
    assert world.adversary.victim is world.machines[0]
    assert world.adversary.made == [world.machines[3]]
    assert world.clients.begun == 30.0
    assert [machine.descriptor is not None for machine in world.machines] == [
        True, True, False, True
    ]  # fmt: skip
    assert [machine.dht.activity.crawls > 0 for machine in world.machines] == [
        True, True, False, False
    ]  # fmt: skip
    assert all(machine.inspection.joined for machine in world.machines)
    online = [o.value for o in simulation.observations if o.metric == "online_nodes"]
    assert fmean(online) == 3  # the bootstrap peer is not counted


def test_a_world_without_participants_has_machines_that_its_program_switches():
    world = World(Streams(1), DhtSettings(k=4), Uniform(0.01, 0.02), ValueCarrier())
    machines = [world.add() for _ in range(4)]
    world.resume(machines)
    assert [world.is_exit(machine) for machine in machines] == [True, False, False, True]
    assert not world.denies(machines[0])
    world.stop(machines[1])
    assert [machine.online for machine in machines] == [True, False, True, True]


def test_a_population_of_the_smallest_protocol_is_enough_for_a_world():
    class OnlyExits(Population):
        def __init__(self, world):
            self.world = world

        def is_exit(self, machine):
            return True

    world = World(
        Streams(1), DhtSettings(), Uniform(0.01, 0.02), ValueCarrier(), population=OnlyExits
    )
    machine = world.add()
    world.start(machine)
    assert machine.descriptor.exit_policy is not None


@pytest.mark.parametrize("names", [("replay", "forge", "lie"), ("sybil", "eclipse")])
def test_attacks_act_in_an_order_that_the_names_in_a_scenario_do_not_change(names):
    """Digests depend on it: which false reply is given, and which machines are added first."""
    orders = [load_plugin(ATTACKS, name).order for name in names]
    assert orders == sorted(set(orders))
