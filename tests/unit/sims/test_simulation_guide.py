"""The guide says what is there: every setting, every preset, examples that load."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from sims.churn import PRESETS
from sims.results.metrics import METRICS
from sims.scenario.expectation import Expectation
from sims.scenario.plain import SECTIONS
from sims.scenario.scenario import Scenario
from sims.scenario.sections import meaning
from sims.scenario.toml import parse_toml

GUIDE = (Path(__file__).parents[3] / "docs" / "simulation-guide.md").read_text()


def blocks(language):
    found = re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)
    assert found
    return found


@pytest.mark.parametrize(("table", "of"), [("", Scenario), *SECTIONS.items()])
def test_every_setting_is_explained_as_the_code_explains_it(table, of):
    for declared in fields(of):
        name = f"{table}.{declared.name}" if table else declared.name
        if name not in SECTIONS:
            row = next(line for line in GUIDE.splitlines() if line.startswith(f"| `{name}` |"))
            assert row.endswith(f"| {meaning(declared)} |")


def test_every_preset_is_named():
    assert all(f"`{name}`" in GUIDE for name in PRESETS)


def test_the_examples_load():
    for text in blocks("toml"):
        for quick in (False, True):
            assert parse_toml(text, quick=quick).expectations
    for text in blocks("python"):
        compile(text, "guide", "exec")
    for line in "".join(blocks("expectation")).splitlines():
        assert Expectation.parse(line).metric in METRICS
