"""The frame of the acceptance set: parameters, bands that bite, figures, exit status."""

import argparse
import json
import math
import re
from dataclasses import dataclass

import pytest

from overlay.errors import BackendError, ConfigurationError
from sims.accept import command, routing
from sims.accept.command import accept, run_each, table, write
from sims.accept.experiment import Experiment, Measurement, with_values
from sims.accept.registry import EXPERIMENTS
from sims.accept.runner import parse_overrides, run, run_one, selected
from sims.accept.verdict import Point, exactly, within


@dataclass(frozen=True, slots=True)
class Knobs:
    nodes: tuple[int, ...] = (100, 200)
    share: float = 0.5
    model: str = "kad2007"

    def __post_init__(self):
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
    assert Point("c", 1, 5, None, 0, math.inf).passed


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
        ("E6.colour=5", "no setting 'colour'; it has nodes, share, model"),
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


def test_experiments_are_chosen_by_name_in_the_registrys_order():
    assert selected(["e25", "E1"], EXPERIMENTS) == ["E1", "E25"]
    assert len(selected([], EXPERIMENTS)) == 16
    with pytest.raises(ConfigurationError, match="no experiment 'E15'"):
        selected(["E15"], EXPERIMENTS)


def test_every_experiment_takes_its_own_settings_back():
    for experiment in EXPERIMENTS.values():
        for settings in (experiment.full, experiment.quick):
            assert with_values(experiment.name, settings, {}) == settings


def test_the_exit_status_is_the_verdict(capsys):
    assert accept(options(experiments=["E1"], set=["E1.draws=3000"])) in (0, 1)
    status = accept(options(experiments=["E14"], set=["E14.identities=50"]))
    assert status == 0
    assert "1 of 1 hold." in capsys.readouterr().out
    # A simulator whose table had no caps would be told so.
    status = accept(options(experiments=["E14"], set=["E14.identities=50", "E14.honest=3"]))
    assert status == 1
    assert "E14  FAILS" in capsys.readouterr().out


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
    monkeypatch.setattr(command, "_run_one", lambda *_, **__: pytest.fail("it ran"))
    with pytest.raises(BackendError, match="cannot be written"):
        accept(options(experiments=["E14"], out=tmp_path / "file" / "results"))


def test_what_has_ended_is_kept_when_the_rest_is_interrupted(tmp_path, monkeypatch, capsys):
    whole = command._run_one

    def interrupted(name, **options):
        if name == "E14":
            raise KeyboardInterrupt
        return whole(name, **options)

    monkeypatch.setattr(command, "_run_one", interrupted)
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
