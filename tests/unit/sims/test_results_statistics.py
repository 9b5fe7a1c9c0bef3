import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_engine import tiny_run

from sims.metrics import GROUPS, METRICS, metric_of
from sims.observations import Observations, RunOutcome
from sims.scenario.expectation import Expectation
from sims.scenario.scenario import Scenario
from sims.special import student_t_95
from sims.studies.reports.catalogue import metrics_page
from sims.studies.reports.comparison import differences
from sims.studies.reports.numbers import duration, interval, number
from sims.studies.results.condensed import BINS, condense
from sims.studies.results.curves import count_band, over_time, quantile_band
from sims.studies.results.expectation_result import verdicts
from sims.studies.results.record import record_of
from sims.studies.results.statistics import (
    bootstrap_estimate,
    share_estimate,
    t_estimate,
    wilson_interval,
)
from sims.studies.results.survival import survival_quantiles


@pytest.mark.parametrize(
    ("degrees", "published"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (10, 2.228), (29, 2.045)],
)
def test_student_s_quantiles_are_those_of_the_tables(degrees, published):
    assert student_t_95(degrees) == pytest.approx(published, abs=5e-4)


def test_an_interval_is_over_the_seeds():
    estimate = t_estimate([1.0, 2.0, 3.0, math.nan])
    assert (estimate.mean, estimate.sd, estimate.n) == (2.0, 1.0, 3)
    assert estimate.high - 2.0 == pytest.approx(4.303 / math.sqrt(3), abs=1e-3)
    assert t_estimate([5.0]).plain()["ci95_low"] is None
    assert t_estimate([]).n == 0


def test_95_percent_intervals_cover_the_truth_in_95_percent_of_studies():
    rng = np.random.default_rng(3)
    studies = rng.normal(7.0, 2.0, size=(1500, 10))
    covered = [e.low <= 7.0 <= e.high for e in map(t_estimate, studies.tolist())]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)


def test_no_interval_reaches_where_no_value_can_be():
    estimate = t_estimate([0.9, 1.0, 1.0]).possible(1.0)
    assert estimate.high == 1.0
    assert estimate.low == t_estimate([0.9, 1.0, 1.0]).low
    assert t_estimate([0.0, 0.1]).possible(1.0).low == 0.0
    assert math.isnan(t_estimate([0.5]).possible(1.0).high)


def test_a_bootstrap_interval_is_the_same_each_time_and_holds_the_mean():
    values = [1.0, 1.1, 0.9, 1.0, 5.0]
    estimate = bootstrap_estimate(values)
    assert estimate == bootstrap_estimate(values)
    assert 0.9 <= estimate.low <= estimate.mean <= estimate.high <= 5.0


def test_the_warm_up_counts_in_no_statistic_but_shows_in_curves():
    scenario = Scenario(duration_s=100, warm_up_s=100)
    observations = Observations()
    for second in range(200):
        observations.add(float(second), "lookup_hops", 9.0 if second < 100 else 2.0)
    condensed = condense(observations, scenario)["lookup_hops", ""]
    assert (condensed.count, condensed.mean, condensed.last) == (100, 2.0, 2.0)
    assert condensed.quantile(0.99) == 2.0
    assert condensed.curve[0] == 9.0
    assert condensed.curve[-1] == 2.0
    assert len(condensed.curve) == BINS


def test_what_is_no_number_counts_nowhere():
    observations = Observations()
    for value in (1.0, math.nan, math.inf, 3.0):
        observations.add(5.0, "lookup_hops", value)
    condensed = condense(observations, Scenario(duration_s=10, warm_up_s=0))
    assert condensed["lookup_hops", ""].mean == 2.0
    assert condensed["lookup_hops", ""].count == 2


def records(expected=(), seeds=3):
    scenario = Scenario(duration_s="2h", warm_up_s="10m", expectations=expected)
    return scenario, [record_of(0, scenario, tiny_run(scenario, s)) for s in range(seeds)]


def test_a_verdict_says_what_was_expected_and_what_was_got():
    expected = [
        Expectation("lookup_success", "mean", ">=", 0.9),
        Expectation("lookup_latency_s", "p95", "<=", 0.1),
        Expectation("bucket_fill", "max", "<=", 20, "bucket-0"),
        Expectation("path_success", "mean", ">=", 0.5),
    ]
    scenario, runs = records(expected)
    held, late, full, unmeasured = verdicts(scenario.expectations, runs)
    assert (held.held, late.held, full.held, unmeasured.held) == (True, False, True, False)
    assert held.certain
    assert "got 1 [0.9895, 1], 3 seeds" in held.sentence()
    assert late.sentence().startswith("NOT HELD  expected lookup_latency_s p95 <= 0.1; got ")
    assert "nothing was measured" in unmeasured.sentence()


def recoveries(*told):
    """Runs with ``recovery_s`` and ``recovered``, the latter None as in older directories."""
    scenario, runs = Scenario(duration_s=900, warm_up_s=0), []
    for seed, (recovery_s, recovered) in enumerate(told):
        observations = Observations()
        observations.add(800.0, "recovery_s", recovery_s)
        if recovered is not None:
            observations.add(900.0, "recovered", recovered)
        runs.append(record_of(0, scenario, RunOutcome(seed, observations, "")))
    return runs


@pytest.mark.parametrize(
    ("promise", "told", "held"),
    [
        ("recovery_s max <= 600", [(60.0, 1.0), (120.0, 1.0)], True),
        ("recovery_s max <= 600", [(60.0, 1.0), (600.0, 0.0)], False),
        ("recovery_s mean < 601", [(60.0, 1.0), (600.0, 0.0)], False),
        ("recovery_s mean == 600", [(600.0, 0.0)], False),
        ("recovery_s mean >= 600", [(600.0, 0.0)], True),
        ("recovery_s count <= 1", [(600.0, 0.0)], True),
        ("recovery_s max <= 600", [(600.0, None)], True),
        ("recovered mean >= 1", [(60.0, 1.0), (600.0, 0.0)], False),
    ],
)
def test_a_run_that_never_recovered_meets_no_upper_bound(promise, told, held):
    (verdict,) = verdicts([Expectation.parse(promise)], recoveries(*told))
    assert verdict.held == held


def test_a_verdict_says_in_how_many_runs_nothing_recovered():
    promise = Expectation.parse("recovery_s max <= 600")
    (verdict,) = verdicts([promise], recoveries((60.0, 1.0), (600.0, 0.0), (600.0, 0.0)))
    assert verdict.sentence().startswith("NOT HELD  expected recovery_s max <= 600.0; got 420 [")
    assert verdict.sentence().endswith(", 3 seeds; 2 of 3 runs did not recover before the end")
    assert verdict.plain()["unrecovered"] == 2


def test_a_bound_within_the_interval_makes_a_verdict_uncertain():
    _scenario, runs = records()
    mean = t_estimate([run.values["lookup_latency_s", ""].mean for run in runs]).mean
    (verdict,) = verdicts([Expectation("lookup_latency_s", "mean", "<=", mean)], runs)
    assert verdict.held
    assert not verdict.certain
    assert "reaches across the bound" in verdict.sentence()


def test_bands_hold_the_mean_and_know_what_was_not_measured():
    scenario, runs = records()
    for band in (
        over_time(scenario, runs, ("lookup_latency_s", "")),
        quantile_band(runs, ("lookup_latency_s", "")),
    ):
        assert np.nanmax(band.low - band.mean) <= 0 <= np.nanmin(band.high - band.mean)
    nothing = over_time(scenario, runs, ("absent", ""))
    assert not np.isfinite(nothing.mean).any()
    assert not len(nothing.where_known().x)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (0.97123, "0.971"), (12.345, "12.35"), (123456.7, "123,457"), (1e-6, "1.0e-06")],
)
def test_numbers_are_shown_with_the_digits_that_mean_something(value, shown):
    assert number(value) == shown


def test_times_are_shown_in_units_that_fit():
    assert [duration(s) for s in (0.5, 45, 90, 3600, 5400, 90_000)] == [
        *("0.5 s", "45 s", "1 min 30 s", "1 h", "1 h 30 min", "1 d 1 h"),
    ]
    assert interval(t_estimate([1.0])) == "\N{EN DASH}"


def test_share_of_only_yes_has_an_interval_of_some_width():
    """12,499 of 12,499 may still be 0.9998; Wilson's published example is 81 of 263."""
    estimate = share_estimate([1.0, 1.0, 1.0], [4000, 4000, 4499])
    assert (estimate.mean, estimate.high) == (1.0, 1.0)
    assert estimate.low == pytest.approx(0.99969, abs=1e-5)
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(0, 10)[0] == 0.0
    spread = share_estimate([0.2, 0.8], [100, 100])
    assert (spread.low, spread.high) == (t_estimate([0.2, 0.8]).low, t_estimate([0.2, 0.8]).high)
    assert math.isnan(share_estimate([1.0], [10]).low), "one seed tells nothing about others"


def test_a_sampled_share_has_an_interval_of_some_width_too():
    scenario, runs = Scenario(duration_s=900, warm_up_s=0), []
    for seed in (1, 2):
        observations = Observations()
        for second in range(50):
            observations.add(float(second), "path_available", 1.0)
        runs.append(record_of(0, scenario, RunOutcome(seed, observations, "")))
    (found,) = verdicts([Expectation("path_available", "mean", ">=", 0.99)], runs)
    assert found.held
    assert not found.certain
    assert (found.got.low, found.got.high) == (pytest.approx(0.963, abs=1e-3), 1.0)


def test_share_that_is_almost_one_is_not_shown_as_one():
    assert number(0.99969) == "0.999690"
    assert number(1.0) == "1"


def test_kaplan_and_meier_count_what_is_cut_off():
    """Of exponential lengths of mean 100, cut off at 50, those seen whole have a mean of 23."""
    lengths = np.random.default_rng(5).exponential(100.0, 20_000)
    ended, cut = lengths[lengths < 50], np.full((lengths >= 50).sum(), 50.0)
    quantiles = survival_quantiles(ended, cut, (0.1, 0.25, 0.5))
    assert quantiles[:2] == pytest.approx((10.54, 28.77), rel=0.05)
    assert math.isnan(quantiles[2]), "the run was too short to tell the median"
    assert ended.mean() < 25
    assert survival_quantiles(np.array([1.0, 2.0, 4.0]), np.array([]), (0.0, 0.5, 1.0)) == (1, 2, 4)
    assert all(map(math.isnan, survival_quantiles(np.array([]), np.array([3.0]), (0.5,))))


def test_distribution_of_whole_numbers_rises_at_whole_numbers_only():
    scenario = Scenario(duration_s=100, warm_up_s=0)
    runs = []
    for ones in (50, 60):
        observations = Observations()
        for number_ in range(100):
            observations.add(float(number_), "lookup_hops", 1.0 if number_ < ones else 2.0)
        condensed = condense(observations, scenario)
        runs.append(SimpleNamespace(values=condensed))
    band = count_band(runs, ("lookup_hops", ""))
    assert band.x.tolist() == [0, 1, 2]
    assert band.mean == pytest.approx([0.0, 0.55, 1.0], abs=0.02)


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("lookup_latency_s", "Lookup latency (s)"),
        ("messages_per_node_s", "Messages per node (1/s)"),
        ("mtt_coverage", "MTT coverage (share)"),
        ("joins_per_hour", "Joins (1/h)"),
        ("lookup_hops", "Lookup hops"),
        ("session_km_s", "Session (s)"),
    ],
)
def test_axes_are_labelled_in_words_with_the_unit_once(name, title):
    assert metric_of(name).title == title


def test_every_metric_has_a_chapter_and_a_meaning():
    assert all(metric.group in GROUPS and metric.meaning for metric in METRICS.values())


def summary_of(point, *means):
    scenario = Scenario()
    runs = tuple(
        SimpleNamespace(seed=seed, values={("path_setup_s", ""): SimpleNamespace(mean=mean)})
        for seed, mean in enumerate(means)
    )
    return SimpleNamespace(
        point=SimpleNamespace(name=point, scenario=scenario),
        runs=runs,
        metrics=(SimpleNamespace(metric="path_setup_s", label=""),),
    )


def test_points_are_compared_seed_by_seed():
    """The seeds differ by far more than the points, so that only pairs show the difference."""
    base = summary_of("a", 1.0, 5.0, 9.0)
    (slower,) = differences([base, summary_of("b", 1.1, 5.1, 9.12)])
    assert (slower.words, slower.shown, slower.estimate.n) == ("higher", True, 3)
    (same,) = differences([base, summary_of("b", 1.1, 4.9, 9.0)])
    assert same.words == same.plain()["verdict"] == "no difference shown"
    (equal,) = differences([base, summary_of("b", 1.0, 5.0, 9.0)])
    assert (equal.words, equal.shown) == ("equal with every seed", False)
    assert equal.plain()["ci95_low"] is None, "equal seeds do not make an interval of width 0"
    (one,) = differences([base, summary_of("b", 1.1)])
    assert one.words == "too few seeds to tell"


def test_page_of_metrics_is_that_of_the_catalogue():
    page = Path(__file__).parents[3] / "docs" / "metrics.md"
    assert page.read_text() == metrics_page(), (
        "python3 -m sims.studies.reports.catalogue > docs/metrics.md"
    )
