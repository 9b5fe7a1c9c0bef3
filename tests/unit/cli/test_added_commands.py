"""Commands that other packages add through the entry-point group ``overlay.commands``."""

import sys
from importlib.metadata import EntryPoint

import pytest

from overlay.cli import commands
from overlay.cli.main import main
from overlay.errors import ConfigurationError


class Dance:
    about = "dance"

    def configure(self, parser):
        parser.add_argument("steps", type=int)

    def run(self, arguments):
        if arguments.steps < 0:
            raise ConfigurationError("one cannot dance backwards; write a positive number.")
        sys.stdout.write("*" * arguments.steps + "\n")
        return arguments.steps


@pytest.fixture
def added(monkeypatch):
    """Register the dance, a command that cannot be imported, and one under a name of ours."""
    asked = []
    entries = [
        EntryPoint("status", f"{__name__}:Dance", commands.GROUP),
        EntryPoint("dance", f"{__name__}:Dance", commands.GROUP),
        EntryPoint("broken", "no_such_module:Command", commands.GROUP),
    ]

    def entry_points(*, group):
        asked.append(group)
        return entries

    monkeypatch.setattr(commands, "entry_points", entry_points)
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])
    return asked


def test_an_added_command_runs_and_decides_the_exit_status(added, capsys):
    assert main(["dance", "3"]) == 3
    assert capsys.readouterr().out == "***\n"


def test_its_errors_become_one_sentence(added, capsys):
    assert main(["--json", "dance", "--", "-1"]) == 1
    assert capsys.readouterr().err == (
        "overlay: one cannot dance backwards; write a positive number.\n"
    )


def test_the_help_lists_it(added, capsys):
    assert main(["--help"]) == 0
    assert "dance" in capsys.readouterr().out


def test_what_cannot_be_imported_says_so_when_it_is_asked_for(added, capsys):
    assert main(["broken", "whatever"]) == 1
    assert '"overlay broken" cannot be loaded (No module named' in capsys.readouterr().err


def test_no_command_of_ours_is_replaced_and_none_waits_for_others(added, capsys):
    assert main(["status", "--socket", "/nowhere/at/all"]) == 1
    assert added == []
    assert "/nowhere/at/all" in capsys.readouterr().err
    assert main(["--socket", "/nowhere/at/all", "status"]) == 1
    assert "/nowhere/at/all" in capsys.readouterr().err
