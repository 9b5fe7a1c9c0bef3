"""Errors that a plug-in of another package raised are told apart from bugs of this one."""

import os
import subprocess
import sys

import pytest

from overlay.control.failure import failure_of
from overlay.errors import ConfigurationError, InternalError
from overlay.plugin_failures import blamed_plugin
from overlay.plugins import load_plugin, registered_plugins

MODULE = """
class Failing:
    def __init__(self, *_):
        pass

    def select(self, request, table, rng):
        return weigh({})

class Short:
    def select(self, request, table, rng):
        from overlay.selection import MixPath

        return MixPath(tuple(table)[:1])

class Padding(Failing):
    def next_deadline(self):
        raise KeyError("no deadline")

def weigh(table):
    return table["x"]
"""
ENTRIES = """
[overlay.selection]
failing = other_package.choice:Failing
short = other_package.choice:Short
missing = other_package.choice:Missing
unreadable = other_package.unreadable:Anything

[overlay.tfc]
padding = other_package.choice:Padding
"""


@pytest.fixture
def others(tmp_path, monkeypatch):
    """A directory with an installed package of somebody else, on the import path."""
    package, metadata = tmp_path / "other_package", tmp_path / "other_package-1.dist-info"
    for directory in (package, metadata):
        directory.mkdir()
    (package / "__init__.py").write_text("")
    (package / "choice.py").write_text(MODULE)
    (package / "unreadable.py").write_text("this is no Python")
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: other-package\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(ENTRIES)
    monkeypatch.syspath_prepend(str(tmp_path))
    registered_plugins.cache_clear()
    yield tmp_path
    registered_plugins.cache_clear()
    for name in [name for name in sys.modules if name.startswith("other_package")]:
        del sys.modules[name]


def raised(call, *arguments):
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever a plug-in raises
        call(*arguments)
    return caught.value


def test_plugin_on_the_way_to_an_error_is_blamed_with_its_lines(others):
    error = raised(load_plugin("overlay.selection", "failing")().select, None, None, None)
    blamed = str(blamed_plugin(error))
    assert 'path selection strategy "failing" (other_package.choice:Failing) failed' in blamed
    assert "KeyError: 'x'; traceback: " in blamed
    assert "choice.py:7 in select, choice.py:20 in weigh" in blamed
    bug = InternalError("a task of the node failed (KeyError)")
    bug.__cause__ = error
    assert str(blamed_plugin(bug)) == blamed
    assert failure_of(bug).kind == "PluginError"


def test_plugins_of_every_group_are_blamed(others):
    error = raised(load_plugin("overlay.tfc", "padding")().next_deadline)
    assert 'traffic flow confidentiality strategy "padding"' in str(blamed_plugin(error))


def test_bug_of_ours_and_mistake_of_the_user_blame_no_plugin():
    assert blamed_plugin(raised(lambda: {}["x"])) is None
    assert blamed_plugin(InternalError("a bug")) is None
    assert blamed_plugin(ConfigurationError("a mistake")) is None


@pytest.mark.parametrize("name", ["missing", "unreadable"])
def test_plugin_that_cannot_be_loaded_is_a_sentence_about_it(others, name):
    text = f'[selection]\nstrategy = "{name}"\n'
    (others / "overlay.toml").write_text(text)
    from overlay.config import load_configuration

    error = raised(load_configuration, others / "overlay.toml")
    assert isinstance(error, ConfigurationError)
    assert f"[selection] strategy: '{name}' is installed but cannot be loaded" in str(error)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        ("short", "broke its contract: it returned "),
        ("failing", "failed: KeyError: 'x'; traceback: choice.py:7 in select"),
    ],
)
def test_simulator_refuses_the_plugin_and_names_it(others, strategy, words):
    command = [sys.executable, "-m", "overlay", "sim", "churn", "--nodes", "12", "--clients", "2"]
    options = ["--duration", "10m", "--warm-up", "1m", "--seeds", "1", "--set"]
    done = subprocess.run(
        [*command, *options, f"circuits.strategy={strategy}", "--out", str(others / "out")],
        env=os.environ | {"PYTHONPATH": str(others)},
        cwd=others,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert words in done.stdout + done.stderr
    assert "bug" not in done.stdout + done.stderr
