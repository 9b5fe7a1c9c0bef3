"""The quick form of the acceptance set: every experiment's verdict, as CI sees it."""

import pytest

from sims.accept.command import markdown, run_each, table, write
from sims.accept.registry import EXPERIMENTS


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment_holds_in_its_quick_form(name, tmp_path):
    (verdict,) = run_each([name], quick=True)
    assert verdict.passed, table([verdict])
    write([verdict], tmp_path)
    assert {f"{name}.png", f"{name}.svg", "verdicts.json"} <= {p.name for p in tmp_path.iterdir()}
    assert f"### {name}: " in markdown([verdict])
