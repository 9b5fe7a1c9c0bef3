"""The entry point of the command line. Errors become one sentence and an exit status.

====== ======================================================================
status meaning
====== ======================================================================
0      success
1      failure; one sentence on standard error says what is wrong and what to do ("overlay
       doctor": the node cannot run, and standard output says why)
2      wrong command line; usage on standard error
130    interrupted
====== ======================================================================
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from overlay.cli.answers import CommandOutput
from overlay.cli.arguments import parser
from overlay.cli.tables import printable
from overlay.cli.values import joined_values
from overlay.control.failure import overlay_error_in
from overlay.errors import InternalError, PluginError

if TYPE_CHECKING:
    from overlay.cli.up import RunNode

__all__ = ["main"]

_DONE: Final = 0
_FAILED: Final = 1
_INTERRUPTED: Final = 130


def main(argv: Sequence[str] | None = None, *, run_node: RunNode | None = None) -> int:
    """Run the command line and return its exit status.

    Args:
        argv: the words after the name of the program, ``sys.argv[1:]`` by default.
        run_node: what ``overlay up`` runs, :func:`overlay.node.run_node` by default.
    """
    words = joined_values(sys.argv[1:] if argv is None else argv)
    try:
        arguments = parser(words).parse_args(words)
    except SystemExit as exit_request:  # argparse exits after it has shown usage or help
        return exit_request.code if isinstance(exit_request.code, int) else _FAILED
    try:
        return _run(arguments, run_node)
    except BrokenPipeError:
        return _reader_gone()
    except KeyboardInterrupt:
        _say_what_goes_on(arguments)
        return _INTERRUPTED
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt) is not None:
            return _INTERRUPTED
        return _failed(group, show_traceback=arguments.debug)
    except Exception as error:
        return _failed(error, show_traceback=arguments.debug)


def _run(arguments: argparse.Namespace, run_node: RunNode | None) -> int:
    def show(answer: CommandOutput) -> None:
        print(answer.shown(as_json=arguments.json), flush=True)

    # Each command imports only what it needs. A request to a running node must be fast, so it must
    # not load the modules of a node.
    if "run_added" in arguments:
        status: int = arguments.run_added(arguments)
        return status
    if arguments.command == "init":
        from overlay.cli.initialise import initialise

        show(initialise(arguments))
    elif arguments.command == "up":
        from overlay.cli.up import up

        up(arguments, run_node, show)
    elif arguments.command == "doctor":
        from overlay.cli.doctor import examined

        answer, can_run = examined(arguments)
        show(answer)
        return _DONE if can_run else _FAILED
    else:
        from overlay.cli.ask import ask

        show(ask(arguments))
    return _DONE


def _say_what_goes_on(arguments: argparse.Namespace) -> None:
    if arguments.command == "path open":
        print(
            "overlay: interrupted; the node continues to open the path, and packets to its "
            'destination stay blocked until then; cancel it with "overlay path close".',
            file=sys.stderr,
        )


def _failed(error: BaseException, *, show_traceback: bool) -> int:
    from overlay.plugin_failures import blamed_plugin

    known = blamed_plugin(error) or overlay_error_in(error)
    if show_traceback and isinstance(known, PluginError):
        traceback.print_exception(error)
    if known is None or isinstance(known, InternalError):
        what = str(known) if known is not None else type(error).__name__
        sentence = (
            f"this is a bug in overlay: {what} (--debug shows the traceback; please report it)"
        )
        if show_traceback:
            traceback.print_exception(error)
    else:
        sentence = str(known)
    print(f"overlay: {printable(sentence)}", file=sys.stderr)
    return _FAILED


def _reader_gone() -> int:
    """Return the exit status after the reader of our output has ended, as ``head`` does.

    Standard output becomes /dev/null, because Python would report the failed flush at exit.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return _FAILED
