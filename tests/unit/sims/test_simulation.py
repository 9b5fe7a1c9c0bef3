"""Whole simulations, seconds each: deterministic, and right in what can be foretold."""

import gc
import os
import subprocess
import sys
import weakref
from statistics import fmean

import pytest

from overlay.errors import ConfigurationError
from sims.scenario.scenario import (
    Adversary,
    Arrival,
    Churn,
    Circuits,
    LatencySection,
    Parameters,
    Scenario,
)
from sims.world.participants.machine import Machine
from sims.world.run import Simulation, run

pytestmark = pytest.mark.slow


def scenario(**changes):
    given = {
        "nodes": 40,
        "duration_s": 240.0,
        "warm_up_s": 120.0,
        "lookups_per_hour": 60.0,
        "churn": Churn("p2psim"),
    }
    return Scenario(**(given | changes))


def values(outcome, metric, label="", since_s=0.0):
    found = [
        o.value
        for o in outcome.observations
        if o.metric == metric and o.label == label and o.time_s >= since_s
    ]
    assert found, f"nothing was measured as {metric}"
    return found


def test_the_same_seed_gives_the_same_run_and_another_seed_another():
    one, again = run(scenario(), 1), run(scenario(), 1)
    assert one.digest == again.digest
    assert one.observations == again.observations
    assert run(scenario(), 2).digest != one.digest


@pytest.mark.parametrize("circuits", [0, 1])
def test_the_run_depends_on_no_hash_seed(circuits):
    program = (
        "from sims.world.run import run; from sims.scenario.scenario import *\n"
        "print(run(Scenario(nodes=40, duration_s=200.0, warm_up_s=100.0,"
        f" churn=Churn('p2psim'), circuits=Circuits(clients={circuits}),"
        " adversary=Adversary(0.2, ('drop', 'lie', 'replay'))), 5).digest)"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout
        for seed in ("0", "1")
    }
    assert len(digests) == 1


def test_encoding_and_verifying_every_message_changes_no_event():
    small = {"nodes": 25, "duration_s": 60.0, "warm_up_s": 60.0}
    passed = run(scenario(**small), 3)
    encoded = run(scenario(verify_signatures=True, **small), 3)
    assert passed.digest == encoded.digest
    assert passed.observations == encoded.observations


def test_tables_and_lookups_of_a_quiet_overlay_are_perfect():
    outcome = run(scenario(churn=Churn("none")), 1)
    assert fmean(values(outcome, "lookup_success")) == 1.0
    assert fmean(values(outcome, "lookup_closest_share")) > 0.99
    assert max(values(outcome, "lookup_dead_share")) == 0.0
    assert max(values(outcome, "table_stale_share")) == 0.0
    assert fmean(values(outcome, "neighbours_known")) > 0.97
    assert set(values(outcome, "online_nodes")) == {40}


def test_a_node_that_starts_joins_and_returns_without_the_bootstrap_peer():
    simulation = Simulation(scenario(churn=Churn("none"), nodes=20), 1)
    simulation.run()
    world = simulation.world
    world.stop(simulation.population.rendezvous)
    returning = world.machines[5]
    world.stop(returning)
    world.start(returning)
    world.heap.run(world.heap.now + 30)
    assert returning.inspection.joined
    assert returning.sessions == 2


def test_a_node_that_leaves_is_freed_at_once(monkeypatch):
    """Parts of a core hold each other: hours of churn would leave more of them than nodes."""
    tables, switch_on = weakref.WeakSet(), Machine.switch_on

    def noted(machine, dht):
        tables.add(dht.parts.table)
        switch_on(machine, dht)

    monkeypatch.setattr(Machine, "switch_on", noted)
    simulation = Simulation(scenario(duration_s=1800.0, circuits=Circuits(clients=1)), 1)
    gc.disable()
    try:
        simulation.run()
        sessions = sum(machine.sessions for machine in simulation.world.machines)
        online = sum(machine.online for machine in simulation.world.machines)
        assert len(tables) == online < sessions
    finally:
        gc.enable()


def test_new_nodes_that_find_no_bootstrap_peer_count_as_failed_joins():
    dies_at_s = 300.0
    outcome = run(
        scenario(
            churn=Churn("exponential(10min)"),
            duration_s=600.0,
            warm_up_s=0.0,
            arrival=Arrival("bootstrap-dies", at_s=dies_at_s),
        ),
        1,
    )
    joins = [(o.time_s, o.value) for o in outcome.observations if o.metric == "join_success"]
    assert {value for time_s, value in joins if time_s < dies_at_s} == {1.0}
    failed = [value for time_s, value in joins if time_s > dies_at_s + 10]
    assert len(failed) > 5
    assert set(failed) == {0.0}


def test_a_partition_hurts_lookups_and_its_repair_heals_them():
    outcome = run(
        scenario(
            arrival=Arrival("partition", at_s=60.0, share=0.5, lasts_s=60.0),
            churn=Churn("none"),
            duration_s=360.0,
            nodes=40,
        ),
        1,
    )
    during = [
        o.value
        for o in outcome.observations
        if o.metric == "lookup_closest_share" and 185 < o.time_s < 235
    ]
    assert fmean(during) < 0.8
    assert fmean(values(outcome, "lookup_closest_share", since_s=400.0)) > 0.9
    assert values(outcome, "recovery_s")


def test_sybils_of_one_network_get_their_few_places_and_no_more():
    outcome = run(
        scenario(churn=Churn("none"), nodes=30, adversary=Adversary(0.0, ("sybil",), sybils=30)),
        1,
    )
    assert max(values(outcome, "table_sybils_max")) == 3
    assert max(values(outcome, "bucket_sybils_max")) == 2


def test_forged_and_replayed_records_are_not_accepted():
    outcome = run(scenario(churn=Churn("none"), adversary=Adversary(0.2, ("forge", "replay"))), 1)
    assert set(values(outcome, "forged_accepted")) == {0.0}
    assert fmean(values(outcome, "lookup_success")) > 0.98


def test_clients_keep_working_paths_through_real_control_planes():
    outcome = run(
        scenario(churn=Churn("none"), nodes=24, circuits=Circuits(clients=2), warm_up_s=240.0), 1
    )
    assert fmean(values(outcome, "path_success")) == 1.0
    assert fmean(values(outcome, "mtt_coverage")) > 0.9
    assert values(outcome, "path_available")[-1] == 1.0


@pytest.mark.parametrize("crawls", ["clients", "all"])
def test_relays_crawl_if_the_scenario_says_that_all_do(crawls):
    simulation = Simulation(scenario(churn=Churn("none"), crawls=crawls), 1)
    simulation.run()
    crawled = {machine.dht.activity.crawls > 0 for machine in simulation.world.machines}
    assert crawled == {crawls == "all"}


def test_keys_beside_an_eclipsed_one_are_counted_apart():
    eclipse = Adversary(0.0, ("eclipse",), eclipse_ids=4)
    simulation = Simulation(scenario(adversary=eclipse, dht=Parameters({"k": 4})), 1)
    simulation.run()
    world, lookups = simulation.world, simulation.lookups
    target = lookups.target
    assert lookups.place_of(target) == "target"
    nearest = [world.by_number[number] for number in world.alive.closest(target.number, 5)]
    assert {lookups.place_of(each) for each in nearest if each is not target} == {"beside"}
    farthest = max(world.machines, key=lambda machine: machine.number ^ target.number)
    assert lookups.place_of(farthest) == ""


def test_signatures_cost_simulated_time():
    quick = Simulation(scenario(nodes=10, churn=Churn("none")), 1)
    slow = Simulation(scenario(nodes=10, churn=Churn("none")), 1)
    slow.world.sending_costs = tuple(0.2 for _ in slow.world.sending_costs)
    for simulation in (quick, slow):
        simulation.run()
    latencies = [
        fmean(values(simulation.outcome(True, 0.0), "lookup_latency_s"))
        for simulation in (quick, slow)
    ]
    assert latencies[1] > latencies[0] + 0.4


def test_a_run_that_is_stopped_says_so_and_keeps_what_it_measured():
    seen = []
    outcome = run(scenario(nodes=200), 1, progress=seen.append, should_stop=lambda: len(seen) >= 2)
    assert not outcome.complete
    assert seen[-1].simulated_s < seen[-1].total_s
    assert outcome.simulated_s == seen[-1].simulated_s
    assert len(outcome.digest) == 64


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"dht": {"no_such": 1}}, "no_such"),
        ({"dht": {"alpha": 900}}, "alpha"),
        ({"churn": Churn("unheard-of")}, "unheard-of"),
        ({"latency": LatencySection("geographic", matrix="/nonexistent/matrix")}, "matrix"),
    ],
)
def test_a_scenario_that_asks_for_what_there_is_not_gets_one_sentence(changes, named):
    with pytest.raises(ConfigurationError, match=named) as caught:
        run(scenario(**changes), 1)
    assert "\n" not in str(caught.value)


def test_nodes_of_the_start_do_not_sign_anew_all_at_once():
    """They did, an hour after the start, and traffic was ten times its mean at that moment."""
    scenario = Scenario(
        nodes=30,
        churn=Churn("none"),
        warm_up_s=600,
        duration_s=3600,
        lookups_per_hour=0,
        sample_interval_s=120,
    )
    simulation = Simulation(scenario, 1)
    assert simulation.run()
    traffic = [
        each.value
        for each in simulation.observations
        if each.metric == "messages_per_node_s" and each.time_s > 600
    ]
    assert max(traffic) < 5 * sum(traffic) / len(traffic)
