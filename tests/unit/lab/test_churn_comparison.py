"""Real against simulated: intervals and verdicts of made-up runs."""

import json
from dataclasses import replace
from random import Random
from statistics import fmean

import pytest

from lab.churn.comparison import compare
from lab.churn.ledger import CounterTotals
from lab.churn.measured import Measured
from lab.churn.report import page, write_report
from lab.churn.script import FAST, ChurnScript


def draw(rng, *, found=0.97, opened=0.8, rate=20.0):
    """One run of an overlay whose true figures are these."""
    rates = tuple(rng.gauss(rate, 4) for _ in range(23))
    return Measured(
        probes=220,
        probes_found=sum(rng.random() < found for _ in range(220)),
        paths=90,
        paths_opened=sum(rng.random() < opened for _ in range(90)),
        lookups=200,
        lookups_succeeded=199,
        datagrams_per_s=rates,
        bytes_per_s=tuple(300 * one for one in rates),
    )


def named(figures, name):
    (figure,) = (figure for figure in figures if figure.name == name)
    return figure


@pytest.mark.slow
def test_runs_of_one_overlay_agree_nearly_always():
    rng = Random(1)
    verdicts = [
        figure.agrees
        for _ in range(200)
        for figure in compare(draw(rng), [draw(rng) for _ in range(6)])
    ]
    assert fmean(verdicts) > 0.95


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("lookup success", {"found": 0.8}),
        ("path success at first try", {"opened": 0.4}),
        ("datagrams per node and second", {"rate": 30.0}),
        ("bytes per node and second", {"rate": 30.0}),
    ],
)
def test_another_overlay_is_told_by_the_figure_that_differs(name, change):
    rng = Random(2)
    figures = compare(draw(rng, **change), [draw(rng) for _ in range(6)])
    assert not named(figures, name).agrees
    assert named(figures, "own lookups closed in time").agrees


def test_success_without_any_failure_leaves_room_for_one():
    rng = Random(3)
    perfect = replace(draw(rng), probes_found=220)
    figures = compare(perfect, [replace(draw(rng), probes_found=219) for _ in range(4)])
    assert named(figures, "lookup success").agrees
    assert named(figures, "lookup success").half > 0


def test_lookups_that_close_after_the_warm_up_make_no_share_above_one():
    rng = Random(6)
    run = replace(draw(rng), lookups=10, lookups_succeeded=20)
    assert named(compare(run, [run, draw(rng)]), "own lookups closed in time").real == 1.0


def test_one_simulated_run_is_no_comparison():
    rng = Random(4)
    with pytest.raises(ValueError, match="two simulated runs"):
        compare(draw(rng), [draw(rng)])


def test_report_has_both_columns_and_the_verdict(tmp_path):
    rng = Random(5)
    script = ChurnScript(1, FAST)
    real, simulated = draw(rng, opened=0.3), [draw(rng) for _ in range(4)]
    figures = compare(real, simulated)
    write_report(tmp_path / "out", script, real, simulated, figures)
    text = (tmp_path / "out" / "report.md").read_text()
    assert text == page(script, figures, 4, 0.0)
    assert "they differ in path success at first try." in text
    assert text.count("\n| ") == 1 + len(figures)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["agree"] is False
    assert len(report["simulated"]) == 4
    assert {figure["name"] for figure in report["figures"]} == set(real.statistics())


def test_ledger_adds_up_sessions_and_leaves_lost_ones_out():
    ledger = CounterTotals()
    ledger.begin(1, 10.0, {"datagrams": 100})
    ledger.end(1, 20.0, {"datagrams": 150})
    ledger.begin(1, 30.0, {})
    ledger.end(1, 40.0, {"datagrams": 50})
    ledger.begin(2, 10.0, {})
    ledger.end(2, 20.0, None)  # it was killed before it said anything
    ledger.end(3, 20.0, {"datagrams": 9})  # never begun
    assert ledger.total("datagrams") == 100
    assert ledger.rates("datagrams") == (5.0,)
