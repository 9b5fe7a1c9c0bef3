"""The judge between model and full simulation, and the acceptance experiment that asks it."""

import math
from dataclasses import replace

import pytest

from sims.acceptance.experiments import fidelity
from sims.acceptance.experiments.fidelity import M1, scenario_of
from sims.acceptance.runner import run_one
from sims.acceptance.validation import MEASURES, Measure, compare, compare_outcomes
from sims.metrics import METRICS
from sims.observations import Observations, RunOutcome
from sims.scenario.scenario import Scenario

SCENARIO = Scenario(nodes=100, warm_up_s=100.0, duration_s=200.0, seeds=1)


def outcome(**values):
    observations = Observations()
    for metric, many in values.items():
        name, _, label = metric.partition("__")
        observations.add(50.0, name, 1e9, label)  # of the warm-up, so it must not count
        for value in many:
            observations.add(5000.0, name, value, label)
    return RunOutcome(1, observations, "", {}, True, 300.0, 0.0, 0)


def judged(full, model, measure):
    compared = compare_outcomes(
        [outcome(**{measure: full})], [outcome(**{measure: m}) for m in model], 100.0
    )
    return {each.measure.name: each for each in compared}


def test_every_measure_is_one_that_runs_record_and_says_why_it_may_be_off():
    assert len({each.name for each in MEASURES}) == len(MEASURES)
    for each in MEASURES:
        assert each.metric in METRICS
        assert each.reason
        assert 0 < max(each.relative, each.absolute) <= 0.25


def test_a_bound_is_relative_or_absolute_whichever_is_larger():
    near = judged([0.1, 0.1], [[0.124], [0.124]], "table_stale_share")["table_stale_share"]
    assert near.tolerance == pytest.approx(0.025)
    assert near.holds
    assert not judged([0.1], [[0.13], [0.13]], "table_stale_share")["table_stale_share"].holds
    small = judged([0.01], [[0.019], [0.019]], "table_stale_share")["table_stale_share"]
    assert small.tolerance == pytest.approx(0.01)


def test_scatter_of_runs_widens_a_bound_to_three_standard_errors():
    scattered = judged([50.0], [[40.0], [60.0]], "leaves_per_hour")["leaves_per_hour"]
    assert scattered.error == pytest.approx(math.sqrt(200 * 1.5))
    assert scattered.tolerance == pytest.approx(3 * scattered.error)


def test_few_events_of_the_full_simulation_widen_it_too():
    few = judged([1.0, 0.0], [[0.5, 0.5], [0.5, 0.5]], "path_first_try")["path_first_try"]
    assert few.error == pytest.approx(math.sqrt(0.25 / 2))
    agreed = judged([1.0] * 8, [[1.0], [1.0]], "path_first_try")["path_first_try"]
    assert agreed.error == pytest.approx(math.sqrt(0.9 * 0.1 / 8))


def test_quantiles_and_labels_are_told_apart():
    both = judged([1.0, 2.0, 9.0], [[1.0, 2.0, 9.0]] * 2, "lookup_latency_s")
    assert both["lookup_latency_s p50"].full == 2.0
    assert both["lookup_latency_s p90"].full > 7.0
    once = judged([18.0], [[18.0]] * 2, "record_holders__once")
    assert list(once) == ["record_holders (once)"]


def test_a_measure_that_the_model_does_not_yield_does_not_hold():
    missing = compare_outcomes([outcome(lookup_hops=[2.0])], [outcome(), outcome()], 100.0)
    assert [each.holds for each in missing] == [False]


def test_too_few_runs_are_refused():
    with pytest.raises(ValueError, match="two of the model"):
        compare_outcomes([outcome()], [outcome()], 0.0)


def test_each_fidelity_is_run_with_its_own_seeds():
    asked = []

    def run(scenario, seed):
        asked.append((scenario.fidelity, seed))
        return outcome(lookup_hops=[2.0])

    (only,) = compare(SCENARIO, full_seeds=(1, 2), model_seeds=(3, 4, 5), run=run)
    assert asked == [("full", 1), ("full", 2), ("model", 3), ("model", 4), ("model", 5)]
    assert only.holds


def test_cases_name_what_is_added_to_a_session_model():
    hostile = scenario_of("kad2007+drop+constant", 2000, 10, 20)
    assert hostile.adversary.share == 0.2
    assert hostile.latency.model == "constant"
    assert (hostile.warm_up_s, hostile.duration_s, hostile.records) == (600.0, 1200.0, 20)
    with pytest.raises(ValueError, match=r"kad2007\+lie"):
        scenario_of("kad2007+lie", 2000, 10, 20)


def test_the_experiment_runs_large_overlays_once_and_small_ones_often(monkeypatch):
    asked = []

    def compared(scenario, *, full_seeds, model_seeds):
        asked.append((scenario.nodes, len(full_seeds), len(model_seeds)))
        measure = Measure("lookup_hops", 0.05, 0.0, "a reason")
        runs = [outcome(lookup_hops=[2.0])] * 2
        (one,) = compare_outcomes(runs[:1], runs, scenario.warm_up_s)
        return [replace(one, measure=measure)]

    monkeypatch.setattr(fidelity, "compare", compared)
    settings = fidelity.Fidelities(nodes=(1000, 10_000), cases=("kad2007",))
    verdict = run_one(M1, settings, 10, lambda _: None)
    assert [each[:2] for each in asked] == [(1000, 3), (10_000, 1)]
    assert verdict.passed
    assert [point.curve for point in verdict.points] == ["kad2007: lookup_hops"] * 2
