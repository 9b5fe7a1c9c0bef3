"""The frame of the acceptance set: parameters, bands that bite, figures, exit status."""

import argparse
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from overlay.errors import BackendError, ConfigurationError
from overlay.settings import Settings, many, number, setting, whole
from overlay.settings.page import refreshed
from sims.acceptance import command
from sims.acceptance.command import accept, run_each, table, write
from sims.acceptance.experiment import Experiment, Measurement, with_values
from sims.acceptance.experiment_result import CheckedValue, ExperimentResult, exactly, within
from sims.acceptance.experiments import routing
from sims.acceptance.experiments.catalogue import setting_tables
from sims.acceptance.experiments.fidelity import point_of
from sims.acceptance.figures import draw
from sims.acceptance.registry import EXPERIMENTS
from sims.acceptance.runner import parse_overrides, run, run_one, selected
from sims.acceptance.validation import MEASURES, Comparison
from sims.scenario.values import LINE


@dataclass(frozen=True, slots=True)
class Knobs(Settings):
    nodes: tuple[int, ...] = setting((100, 200), many(whole(1, 1000)), "Numbers of nodes.")
    share: float = setting(0.5, number(0, 9), "Fraction of them.")
    model: str = setting("kad2007", LINE, "Session model.")

    def check(self):
        if self.share > 1:
            raise ValueError("share is at most 1")


def measure(settings, seeds, progress):
    progress("measuring")
    return Measurement([within("curve", n, settings.share, 0.5, 0.1) for n in settings.nodes])


TOY = {"E6": Experiment("E6", "A toy", "±0.1", "x", "y", Knobs(), Knobs((50,)), measure)}


def run_toy(*texts, quick=True, names=()):
    overrides = parse_overrides(texts, TOY)
    return run(names, TOY, quick=quick, seeds=None, progress=lambda _: None, overrides=overrides)


def options(**changes):
    given = {"experiments": [], "quick": True, "set": [], "out": None, "jobs": None, "json": False}
    return argparse.Namespace(**(given | changes))


def test_points_hold_inside_their_band_and_nowhere_else():
    assert within("c", 1, 0.59, 0.5, 0.1).passed
    assert not within("c", 1, 0.61, 0.5, 0.1).passed
    assert not within("c", 1, math.nan, 0.5, 0.1).passed
    assert exactly("c", 1, 0, 0).passed
    assert not exactly("c", 1, 1e-9, 0).passed
    assert CheckedValue("c", 1, 5, None, 0, math.inf).passed


def test_a_verdict_without_points_does_not_hold():
    empty = Experiment("E1", "t", "", "", "", Knobs(), Knobs(), lambda *_: Measurement([]))
    assert not run_one(empty, Knobs(), 1, lambda _: None).passed


def test_settings_come_from_outside_and_quick_differs_from_full():
    (verdict,) = run_toy()
    assert [point.x for point in verdict.points] == [50]
    (verdict,) = run_toy(quick=False)
    assert [point.x for point in verdict.points] == [100, 200]
    (verdict,) = run_toy("E6.nodes=700", "e6.share = 0.61")
    assert [point.x for point in verdict.points] == [700]
    assert not verdict.passed
    (verdict,) = run_toy("E6.nodes=7, 8,9")
    assert [point.x for point in verdict.points] == [7, 8, 9]
    assert verdict.settings["nodes"] == (7, 8, 9)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("E6.nodes", "write EXPERIMENT.setting=value"),
        ("nodes=5", "write EXPERIMENT.setting=value"),
        ("E99.nodes=5", "no experiment 'E99'"),
        ("E6.colour=5", "there is no E6 setting colour; known: nodes, share, model."),
        ("E6.nodes=many", "whole number"),
        ("E6.share=half", "must be a number"),
        ("E6.share=2", "share is at most 1"),
    ],
)
def test_a_bad_setting_gets_one_sentence(text, names):
    with pytest.raises(ConfigurationError) as caught:
        run_toy(text)
    assert names in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("E1.draws=0", "E1: draws must lie between 1000 and 10000000, not 0."),
        ("E1.model=none", "no node ever leaves under 'none'"),
        ("E2.hours=5", "360 minutes cannot be seen within 5 hours"),
        ("E2.model=bamboo", "the model needs absences"),
        ("E3.k=2", "E3: k must lie between 3 and 64, not 2."),
        ("E4.nodes=22", "nodes must be at least twice k, so 40."),
        ("E4.churn=nonsense", "'nonsense' is no session model"),
        ("E4.churn_nodes=10", "twice k are needed; set churn_nodes to more, or to 0."),
        ("E5.nodes=16", "E5: nodes must lie between 64 and"),
        ("E6.nodes=100000000", "E6: nodes must lie between 2 and 200000, not 100000000."),
        ("E7.dead=nan", "E7: dead must lie between 0 and 0.95, not nan."),
        ("E7.bits=5000", "E7: bits must lie between 2 and 20, not 5000."),
        ("E7.bits=2", "of 2^2 nodes would live; set bits to more."),
        ("E8.minutes=60,60", "E8: minutes names a value twice; write each of them once."),
        ("E10.p50_s=inf", "E10: p50_s must lie between 0 and 60 seconds, not inf."),
        ("E10.nodes=30", "21 nodes would live, and 22 are needed"),
        ("E11.paths=9", "paths must not exceed k, which is 8."),
        ("E12.silent=0.75", "malicious and silent add up to 0.9 at the most."),
        ("E13.nodes=100", "nodes must be at least 10 k, so 200."),
        ("E13.sybils=-5", "E13: sybils must lie between 1 and 1000, not -5."),
        ("E14.identities=0", "E14: identities must lie between 1 and 1000000, not 0."),
        ("E25.workers=0", "E25: workers must lie between 1 and 64, not 0."),
        ("M1.cases=kad2007+luck", "+constant, +drop or +failure, not 'kad2007+luck'."),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_before_anything_runs(text, says, monkeypatch):
    monkeypatch.setattr(command, "run_one", lambda *_, **__: pytest.fail("it ran"))
    with pytest.raises(ConfigurationError, match=re.escape(says)):
        accept(options(experiments=["E9", text.partition(".")[0]], set=[text]))


def test_a_setting_of_what_is_not_to_be_run_is_refused():
    with pytest.raises(ConfigurationError, match=r"E6.nodes is set, but E6 is not to be run"):
        accept(options(experiments=["E5"], set=["E6.nodes=50"]))


@pytest.mark.parametrize("seeds", [0, -3, 10_001])
def test_seeds_are_bounded(seeds):
    with pytest.raises(ConfigurationError, match=r"--seeds must lie between 1 and 10000, not"):
        accept(options(experiments=["E14"], seeds=seeds))


def test_the_table_of_settings_is_that_of_the_declarations():
    page = (Path(__file__).parents[3] / "docs" / "acceptance.md").read_text()
    assert refreshed(page, setting_tables()) == page, "make pages"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("E1", {"draws": "1000"}),
        ("E1", {"model": "weibull(1h,0.2)"}),
        ("E1", {"model": "pareto(2h,1.5)"}),
        ("E4", {"nodes": "50", "k": "4", "churn": "kad2007", "churn_nodes": "60",
                "churn_hours": "0.1"}),
        ("E4", {"nodes": "50", "churn": "none", "churn_nodes": "60", "churn_hours": "0.1"}),
        ("E5", {"nodes": "64,100"}),
        ("E6", {"nodes": "2,5,50", "k": "1,3"}),
        ("E7", {"bits": "5", "dead": "0.6,0.7", "k": "1,2"}),
        ("E8", {"model": "relay-mix", "k": "1", "minutes": "169.9"}),
        ("E11", {"lookups": "200", "malicious": "0.6"}),
        ("E12", {"nodes": "100", "k": "8", "silent": "0"}),
        ("E13", {"nodes": "200", "k": "8", "sybils": "5"}),
        ("E14", {"honest": "10", "identities": "100"}),
    ],
)  # fmt: skip
def test_a_small_or_odd_point_holds_as_well(name, settings):
    """Bands are as wide as such a run scatters, and what is expected is exact there too."""
    (verdict,) = run_each([name], quick=True, seeds=1, overrides={name: settings})
    assert verdict.passed, table([verdict])


def test_experiments_are_chosen_by_name_in_the_registrys_order():
    assert selected(["e25", "E1"], EXPERIMENTS) == ["E1", "E25"]
    assert len(selected([], EXPERIMENTS)) == 16
    with pytest.raises(ConfigurationError, match="no experiment 'E15'"):
        selected(["E15"], EXPERIMENTS)


def test_every_experiment_takes_its_own_settings_back():
    for experiment in EXPERIMENTS.values():
        for settings in (experiment.full, experiment.quick):
            assert with_values(experiment.name, settings, {}) == settings


@pytest.mark.slow
def test_the_exit_status_is_the_verdict(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert accept(options(experiments=["E1"], set=["E1.draws=3000"])) in (0, 1)
    status = accept(options(experiments=["E14"], set=["E14.identities=50"]))
    assert status == 0
    out = capsys.readouterr().out
    assert "1 of 1 hold." in out
    assert out.endswith("Results: sim-results/accept-2\n"), "kept without --out, beside the first"
    kept = json.loads((tmp_path / "sim-results" / "accept-2" / "verdicts.json").read_text())
    assert kept[0]["name"] == "E14"
    hasty = ["nodes=60", "k=8", "lookups=2", "p50_s=0"]
    status = accept(options(experiments=["E10"], set=[f"E10.{each}" for each in hasty], seeds=1))
    assert status == 1
    assert "E10  FAILS" in capsys.readouterr().out


@pytest.mark.slow
def test_json_and_files_hold_every_point(tmp_path, capsys):
    out = tmp_path / "new" / "place"
    chosen = options(experiments=["E14"], set=["E14.identities=50"], out=out, json=True)
    accept(chosen)
    (plain,) = json.loads(capsys.readouterr().out)
    assert plain["name"] == "E14"
    assert len(plain["points"]) == 6
    assert json.loads((out / "verdicts.json").read_text()) == [plain]
    assert (out / "E14.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (out / "E14.svg").read_text()
    assert "| most in the table | 1 |" in (out / "acceptance.md").read_text()


def test_results_that_cannot_be_written_get_one_sentence(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(BackendError, match="cannot be written"):
        write([], blocked)


def test_a_place_that_cannot_be_written_is_told_before_anything_runs(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(command, "run_one", lambda *_, **__: pytest.fail("it ran"))
    with pytest.raises(BackendError, match="cannot be written"):
        accept(options(experiments=["E14"], out=tmp_path / "file" / "results"))


@pytest.mark.slow
def test_what_has_ended_is_kept_when_the_rest_is_interrupted(tmp_path, monkeypatch, capsys):
    whole = command.run_one

    def interrupted(name, **options):
        if name == "E14":
            raise KeyboardInterrupt
        return whole(name, **options)

    monkeypatch.setattr(command, "run_one", interrupted)
    chosen = options(experiments=["E1", "E14"], set=["E1.draws=3000"], out=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        accept(chosen)
    (kept,) = json.loads((tmp_path / "verdicts.json").read_text())
    assert kept["name"] == "E1"
    assert re.search(r"^E1 (holds|FAILS) after \d+ s$", capsys.readouterr().err, re.MULTILINE)


def test_jobs_are_bounded():
    with pytest.raises(ConfigurationError, match="--jobs"):
        accept(options(experiments=["E14"], jobs=0))


def test_a_failed_point_is_shown_with_its_band():
    (verdict,) = run_toy("E6.share=0.7")
    assert "curve at 50: got 0.7, expected 0.5, allowed [0.4, 0.6]" in table([verdict])
    assert "0 of 1 hold." in table([verdict])


@pytest.mark.slow
def test_another_point_of_a_printed_curve_can_be_asked():
    (verdict,) = run_each(
        ["E6"],
        quick=True,
        seeds=1,
        overrides={"E6": {"nodes": "300", "k": "5", "lookups": "300"}},
    )
    (point,) = verdict.points
    assert verdict.passed
    assert 2 < point.expected < 3


@pytest.mark.slow
def test_a_wrong_overlay_fails(monkeypatch):
    """Lookups over tables of half the room take too many hops for E6."""
    whole = routing.IdealOverlay
    monkeypatch.setattr(
        routing,
        "IdealOverlay",
        lambda ids, settings, rng: whole(ids, routing.greedy(settings.k // 2), rng),
    )
    overrides = {"E6": {"nodes": "512", "k": "8", "lookups": "400"}}
    (verdict,) = run_each(["E6"], quick=True, seeds=1, overrides=overrides)
    assert not verdict.passed
    assert command.table([verdict]).endswith("0 of 1 hold.")


def test_a_band_that_holds_whatever_is_measured_is_not_judged():
    """Of few runs, path_first_try was allowed to lie in [0.68, 1.32]."""
    measure = next(each for each in MEASURES if each.metric == "path_first_try")
    assert Comparison(measure, 1.0, 0.99, 0.01).is_sharp
    assert not Comparison(measure, 1.0, 0.7, 0.107).is_sharp
    sharp, vague = (Comparison(measure, 1.0, 0.99, error) for error in (0.04, 0.2))
    assert (sharp.is_sharp, vague.is_sharp) == (True, False)
    point = point_of("kad2007", 1000, sharp)
    assert point.high == 1.0, "no share lies above 1"


@pytest.mark.slow
def test_points_of_different_units_are_drawn_in_rows(tmp_path):
    pytest.importorskip("matplotlib")
    points = tuple(
        CheckedValue(f"measure {n}", 1000, n, None, 0.0, 5.0 + (n == 3) * 100) for n in range(14)
    )
    verdict = ExperimentResult("M1", "t", "tol", "nodes", "value", {}, points, 1.0, by_row=True)
    draw(verdict, tmp_path)
    assert (tmp_path / "M1.png").stat().st_size > 1000
    assert "measure 13" in (tmp_path / "M1.svg").read_text()
