"""Whole runs of the model: reproducible, stoppable, and right where theory says what to expect."""

from collections import defaultdict
from dataclasses import replace

import pytest

from overlay.dht.settings import DhtSettings
from overlay.errors import ConfigurationError
from sims.scenario.scenario import Adversary, Arrival, Circuits, LatencySection, Scenario
from sims.vectorised.run import run_model
from sims.vectorised.settings import Bounds
from sims.world.churn.session_models import PRESETS

SCENARIO = Scenario(
    nodes=5000,
    duration_s=3600.0,
    warm_up_s=1800.0,
    sample_interval_s=900.0,
    records=200,
    circuits=Circuits(clients=4),
    seeds=1,
)
pytestmark = pytest.mark.slow

KAD = PRESETS["kad2007"]


def run(scenario=SCENARIO, seed=1, **options):
    return run_model(
        scenario, KAD, DhtSettings(), seed, bounds=Bounds(lookups=40, clients=4), **options
    )


def means(outcome, since=SCENARIO.warm_up_s):
    values = defaultdict(list)
    for time_s, metric, label, value in outcome.observations:
        if time_s > since:
            values[metric if not label else f"{metric} {label}"].append(value)
    return {name: sum(many) / len(many) for name, many in values.items()}


@pytest.fixture(scope="module")
def measured():
    return means(run())


def test_the_same_seed_gives_the_same_observations():
    short = replace(SCENARIO, duration_s=900.0, warm_up_s=0.0)
    assert run(short).digest == run(short).digest != run(short, seed=2).digest


def test_churn_is_that_of_the_session_model(measured):
    online = 5000 * KAD.availability()
    assert measured["online_share"] == pytest.approx(KAD.availability(), abs=0.015)
    assert measured["leaves_per_hour"] == pytest.approx(online / (KAD.on.mean() / 3600), rel=0.15)


def test_lookups_find_what_is_there(measured):
    assert measured["lookup_success"] > 0.99
    assert measured["lookup_closest_share"] > 0.95
    assert 1.5 < measured["lookup_hops"] < 2.5


def test_tables_of_clients_miss_few_nodes_and_keep_many_departed_ones(measured):
    assert measured["mtt_coverage"] > 0.95
    assert 0.05 < measured["mtt_staleness"] < 0.4
    # Paths are drawn from who answered the last crawl, ten minutes ago at most.
    assert measured["path_first_try"] == pytest.approx(KAD.residual_survival(300.0) ** 3, abs=0.1)


def test_records_outlive_many_of_their_holders(measured):
    expected = 20 * KAD.residual_survival(1800.0)
    # A few of the first holders were authors themselves, and left with them.
    authors = SCENARIO.records / (SCENARIO.records + 5000 * KAD.availability())
    expected *= 1 - authors
    assert measured["record_holders once"] == pytest.approx(expected, rel=0.1)
    assert measured["record_survival once"] == 1.0
    assert 19.0 < measured["record_holders"] < 22.0


def test_a_mass_failure_halves_the_overlay():
    failing = replace(SCENARIO, arrival=Arrival(kind="mass-failure", share=0.5, at_s=600.0))
    online = [o.value for o in run(failing).observations if o.metric == "online_nodes"]
    assert online[-1] == pytest.approx(online[0] / 2, rel=0.15)


def test_nodes_that_drop_requests_cost_time(measured):
    hostile = replace(SCENARIO, adversary=Adversary(share=0.3, behaviours=("drop",)))
    dropped = means(run(hostile))
    assert dropped["lookup_latency_s"] > measured["lookup_latency_s"]
    assert dropped["lookup_closest_share"] == pytest.approx(0.7, abs=0.05)
    assert dropped["neighbours_known"] < measured["neighbours_known"]
    assert dropped["mtt_adversary_ratio"] == pytest.approx(1.0, abs=0.1)


def test_a_run_stops_when_asked_and_keeps_what_it_has():
    asked = iter([False, False, True])
    outcome = run(should_stop=lambda: next(asked))
    assert not outcome.complete
    assert outcome.simulated_s == 1800.0
    assert len(outcome.observations) > 100


@pytest.mark.parametrize(
    "beyond",
    [
        {"arrival": Arrival(kind="partition")},
        {"latency": LatencySection(model="geographic")},
        {"latency": LatencySection(loss=0.01)},
        {"adversary": Adversary(share=0.1, behaviours=("lie",))},
        {"crawls": "all"},
    ],
)
def test_what_the_model_does_not_know_is_refused_in_a_sentence(beyond):
    with pytest.raises(ConfigurationError, match='write fidelity = "full"'):
        run(replace(SCENARIO, **beyond))
