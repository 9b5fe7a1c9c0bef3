"""The guide says what is there: every setting, every preset, examples that load."""

import re
from pathlib import Path

from overlay.settings.page import refreshed
from sims.metrics import METRICS
from sims.scenario.catalogue import setting_tables
from sims.scenario.expectation import Expectation
from sims.scenario.toml import parse_toml
from sims.world.churn import PRESETS

GUIDE = (Path(__file__).parents[3] / "docs" / "simulation-guide.md").read_text()


def blocks(language):
    found = re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)
    assert found
    return found


def test_the_table_of_settings_is_that_of_the_declarations():
    assert refreshed(GUIDE, setting_tables()) == GUIDE, "make pages"


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
