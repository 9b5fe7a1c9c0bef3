"""Every acceptance experiment with few nodes: its verdict, figures and tables, as CI sees them."""

import pytest

from sims.acceptance.command import markdown, run_each, table, write
from sims.acceptance.registry import EXPERIMENTS

SMALLER = {
    "E3": {"nodes": "80"},
    "E4": {"nodes": "80"},
    "E5": {"lookups": "2000"},
    "E7": {"bits": "8"},
    "E9": {"nodes": "40"},
    "E10": {"nodes": "300"},
    "E11": {"nodes": "600"},
    "E25": {"nodes": "40", "duration_s": "600"},
    "M1": {"nodes": "600"},
}
"""Of the quick form, whose expectations and bands follow from the settings. In full it takes three
minutes of processor time; ``overlay sim accept --quick`` runs it."""


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment_holds_in_its_quick_form(name, tmp_path):
    overrides = {name: SMALLER[name]} if name in SMALLER else {}
    (verdict,) = run_each([name], quick=True, overrides=overrides)
    assert verdict.passed, table([verdict])
    write([verdict], tmp_path)
    assert {f"{name}.png", f"{name}.svg", "verdicts.json"} <= {p.name for p in tmp_path.iterdir()}
    assert f"### {name}: " in markdown([verdict])
