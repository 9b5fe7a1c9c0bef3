"""Commands that other packages add to ``overlay`` (entry-point group ``overlay.commands``).

The simulator adds ``overlay sim`` in this way, so that no module of a node imports it. Entry
points are loaded only if the command line does not begin with a built-in command.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, Protocol

from overlay.errors import ConfigurationError

__all__ = ["GROUP", "AddedCommand", "add_commands"]

GROUP: Final = "overlay.commands"


class AddedCommand(Protocol):
    """The interface of an added command. The entry point names a class that implements it.

    ``about`` is a phrase for the list of commands. Importing the module should be fast, because
    it happens for every added command: import what only ``run`` needs in ``run``.
    """

    about: str

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add arguments to the command's parser."""
        ...

    def run(self, arguments: argparse.Namespace) -> int:
        """Run the command and return its exit status.

        Raises:
            OverlayError: the command failed; the message is one sentence for the user.
        """
        ...


def add_commands(
    commands: Any,  # noqa: ANN401 - argparse keeps the type of sub-parsers to itself
    argv: Sequence[str],
) -> None:
    """Add registered commands, unless the command line begins with a built-in command."""
    first = next((word for word in argv if not word.startswith("-")), None)
    if first in commands.choices:
        return
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        if entry.name not in commands.choices:
            _add(commands, entry)


def _add(commands: Any, entry: EntryPoint) -> None:  # noqa: ANN401 - as above
    command: AddedCommand
    try:
        command = entry.load()()
    except ImportError as error:
        command = _Broken(entry.name, error)
    parser = commands.add_parser(
        entry.name,
        help=command.about,
        description=f"{command.about[:1].upper()}{command.about[1:]}.",
        allow_abbrev=False,
    )
    command.configure(parser)
    parser.set_defaults(command=entry.name, run_added=command.run)


class _Broken:
    """Replace a command whose module cannot be imported. Running it reports the import error."""

    def __init__(self, name: str, error: ImportError) -> None:
        self.about = "cannot be loaded"
        self._name, self._error = name, error

    def configure(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("rest", nargs="*", help=argparse.SUPPRESS)

    def run(self, _arguments: argparse.Namespace) -> int:
        raise ConfigurationError(
            f'"overlay {self._name}" cannot be loaded ({self._error}); install the missing package.'
        )
