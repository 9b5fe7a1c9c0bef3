"""The parser of the command line, with all help texts."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import overlay
from overlay.cli.commands import add_commands
from overlay.cli.hinting_parser import HintingParser
from overlay.config.load import section_type
from overlay.logs import LEVELS
from overlay.settings import declared
from overlay.settings.describe import option_default
from overlay.settings.option import add_option

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

__all__ = ["INIT_OPTIONS", "parser"]

_ENDPOINT: Final = "ADDRESS:PORT"

_LEAST_WAIT_S: Final = 0.1
_MOST_WAIT_S: Final = 600.0

INIT_OPTIONS: Final[Mapping[str, tuple[str, str, str | None]]] = {
    "--network-id": ("network", "network_id", "NAME"),
    "--listen": ("network", "listen", _ENDPOINT),
    "--advertise": ("network", "advertise", _ENDPOINT),
    "--bootstrap": ("network", "bootstrap", _ENDPOINT),
    "--exit": ("roles", "exit", None),
    "--identity-cost-bits": ("dht", "identity_cost_bits", "BITS"),
    "--private": ("network", "allow_private_endpoints", None),
}
"""Options of ``overlay init`` with section and name of the setting, and a word for the help."""


def parser(argv: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """Return the parser. Its result has the command as ``command``, such as "path open".

    Args:
        argv: the words that the caller will parse, ``sys.argv[1:]`` by default. Commands of other
            packages are loaded only if these words do not begin with a built-in command.
    """
    top: argparse.ArgumentParser = HintingParser(
        prog="overlay",
        description="Carry IP packets through anonymous circuits of nested IPsec tunnels.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action=_ShowVersion, nargs=0, help="show the version and exit")
    _common(top, absent=None, off=False)
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    _init(
        _command(
            commands,
            "init",
            "create the keys of a node and a commented configuration file; if the file exists "
            "without its keys, create only the keys",
        )
    )
    _up(_command(commands, "up", "run a node until it is stopped"))
    _doctor(
        _command(
            commands,
            "doctor",
            "check this host for everything that the node needs and show how to fix problems; "
            "exit status 1 if the node cannot run",
        )
    )
    _command(commands, "status", "show the state of the running node")
    _command(commands, "peers", "list the Mix-nodes that the running node knows")
    _path(commands.add_parser("path", help="open, list and close anonymous paths"))
    _stop(_command(commands, "stop", "stop the running node; destinations stay blocked"))
    add_commands(commands, sys.argv[1:] if argv is None else argv)
    return top


class _ShowVersion(argparse.Action):
    """Print the version. It is looked up only here, because that is slower than all else here."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        sys.stdout.write(f"overlay {overlay.__version__}\n")
        parser.exit()


def _command(commands: Commands, name: str, about: str, *, of: str = "") -> argparse.ArgumentParser:
    added = commands.add_parser(
        name, help=about, description=f"{about[:1].upper()}{about[1:]}.", allow_abbrev=False
    )
    # Common options may also come before the command. A default here would overwrite their values.
    _common(added, absent=argparse.SUPPRESS, off=argparse.SUPPRESS)
    added.set_defaults(command=f"{of} {name}".strip())
    return added


def _common(to: argparse.ArgumentParser, *, absent: object, off: object) -> None:
    group = to.add_argument_group("options of every command")
    group.add_argument("--json", action="store_true", default=off, help="print the output as JSON")
    group.add_argument(
        "--config",
        type=Path,
        default=absent,
        metavar="FILE",
        help="configuration file of the node (default: /var/lib/overlay/overlay.toml for root, "
        "~/.local/state/overlay/overlay.toml for others)",
    )
    group.add_argument(
        "--socket",
        type=Path,
        default=absent,
        metavar="FILE",
        help="control socket of the node (default: [node] control_socket in the configuration)",
    )
    group.add_argument(
        "--debug",
        action="store_true",
        default=off,
        help="show the traceback of an internal error",
    )


def _doctor(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--wait",
        type=_seconds,
        default=1.5,
        metavar="SECONDS",
        help="longest wait for the checks; later results are reported as unknown (default: 1.5)",
    )


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan  # outside of every range
    if not _LEAST_WAIT_S <= value <= _MOST_WAIT_S:
        raise argparse.ArgumentTypeError(
            f"write a number of seconds from {_LEAST_WAIT_S:g} to {_MOST_WAIT_S:g}, not {text}"
        )
    return value


def _init(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--dir",
        type=Path,
        help="directory of the new node (default: /var/lib/overlay for root, "
        "~/.local/state/overlay for others)",
    )
    for flag, (section, name, metavar) in INIT_OPTIONS.items():
        default = option_default(declared(section_type(section))[name])
        _setting(to, flag, section, name, metavar, remark=f"default: {default}")
    to.add_argument(
        "--force",
        action="store_true",
        help="replace an existing configuration; the former file is kept beside the new one, "
        "and keys are never overwritten",
    )


def _up(to: argparse.ArgumentParser) -> None:
    _setting(
        to, "--bootstrap", "network", "bootstrap", _ENDPOINT, remark="adds to [network] bootstrap"
    )
    _setting(to, "--listen", "network", "listen", _ENDPOINT)
    to.add_argument(
        "--log-level",
        choices=sorted(LEVELS),
        default="warning",
        help="least severe events to log (default: warning)",
    )


def _path(path: argparse.ArgumentParser) -> None:
    commands = path.add_subparsers(metavar="COMMAND", required=True)
    opening = _command(commands, "open", "open anonymous paths to destinations", of="path")
    opening.add_argument(
        "destinations",
        nargs="+",
        metavar="DEST",
        help="an IP address or prefix, not a host name; if there are several, all are blocked "
        "before the first path is opened",
    )
    _setting(opening, "--hops", "selection", "hops", "N")
    _setting(opening, "--strategy", "selection", "strategy", "NAME")
    opening.add_argument(
        "--via",
        action="append",
        default=[],
        metavar="NODE[,NODE...]",
        help="hops that the path must use, as node ids or overlay addresses, first hop first "
        "(repeatable)",
    )
    _setting(opening, "--both-versions", "paths", "both_versions")
    _command(commands, "list", "list the open paths", of="path")
    closing = _command(
        commands,
        "close",
        "close paths and unblock their destinations, also without a running node",
        of="path",
    )
    which = closing.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "which",
        nargs="*",
        default=[],
        metavar="PATH",
        help='number or destination of a path, as "overlay path list" shows it, or "all"',
    )
    which.add_argument("--all", action="store_true", help="close every path")


def _stop(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--release",
        action="store_true",
        help="close all paths first, so that packets to their destinations leave directly "
        "again; works also without a running node",
    )


def _setting(
    to: argparse.ArgumentParser,
    flag: str,
    section: str,
    name: str,
    metavar: str | None = None,
    *,
    remark: str = "",
) -> None:
    """Add the option of a setting; its help and its check come from the declaration."""
    known = declared(section_type(section))[name]
    told = remark or f"default: [{section}] {name}"
    add_option(to, flag, known, remark=told, metavar=metavar, check=True)
