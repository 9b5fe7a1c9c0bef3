"""The grammar of the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import overlay
from overlay.apm.settings import MAX_HOPS
from overlay.cli.commands import add_commands
from overlay.cli.values import whole_number
from overlay.logs import LEVELS

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

__all__ = ["parser"]

_ENDPOINT: Final = "ADDRESS:PORT"


def parser(argv: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """Return the parser; ``command`` of its result names what to do ("status", "path open").

    ``argv`` is what it will parse, the process's own arguments unless given: commands that
    other packages add are looked up only if they may be meant.
    """
    top = argparse.ArgumentParser(
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
            "make an identity and a commented configuration file; if the file exists and its keys "
            "do not, make the keys alone",
        )
    )
    _up(_command(commands, "up", "run a node until it is stopped"))
    _command(
        commands,
        "doctor",
        "tell what this host lacks for the node, and how to mend it; 1 if it cannot run",
    )
    _command(commands, "status", "tell how the running node is")
    _command(commands, "peers", "list the Mix-nodes that the running node knows")
    _path(commands.add_parser("path", help="open, list and close anonymous paths"))
    _stop(_command(commands, "stop", "stop the running node; destinations stay blocked"))
    add_commands(commands, sys.argv[1:] if argv is None else argv)
    return top


class _ShowVersion(argparse.Action):
    """Look the version up when asked for it: that takes longer than the rest of the grammar."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        sys.stdout.write(f"overlay {overlay.__version__}\n")
        parser.exit()


def _command(commands: Commands, name: str, about: str, *, of: str = "") -> argparse.ArgumentParser:
    added = commands.add_parser(
        name, help=about, description=f"{about[:1].upper()}{about[1:]}.", allow_abbrev=False
    )
    # Options may come before the command as well: what is absent here must not undo them.
    _common(added, absent=argparse.SUPPRESS, off=argparse.SUPPRESS)
    added.set_defaults(command=f"{of} {name}".strip())
    return added


def _common(to: argparse.ArgumentParser, *, absent: object, off: object) -> None:
    group = to.add_argument_group("for every command")
    group.add_argument("--json", action="store_true", default=off, help="answer in JSON")
    group.add_argument(
        "--config", type=Path, default=absent, metavar="FILE", help="the node's configuration file"
    )
    group.add_argument(
        "--socket", type=Path, default=absent, metavar="FILE", help="the node's control socket"
    )
    group.add_argument(
        "--debug", action="store_true", default=off, help="show the traceback of a bug"
    )


def _init(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--dir",
        type=Path,
        help="directory of the new node (default: /var/lib/overlay for root, "
        "~/.local/state/overlay for others)",
    )
    to.add_argument("--network-id", metavar="NAME", help="name of the overlay to join")
    _listen(to)
    to.add_argument(
        "--advertise", action="append", metavar=_ENDPOINT, help="where others reach this node"
    )
    _bootstrap(to)
    to.add_argument("--exit", action="store_true", help="be willing to be the last hop")
    to.add_argument(
        "--identity-cost-bits",
        type=whole_number(0),
        metavar="BITS",
        help="what the network asks of an identity; each bit doubles the search for a key "
        "(16: some seconds, 20: a minute)",
    )
    to.add_argument(
        "--private",
        action="store_true",
        help="allow private and loopback endpoints (laboratories, private meshes)",
    )
    to.add_argument(
        "--force",
        action="store_true",
        help="write another configuration where one exists; the former file is kept beside it, "
        "and keys are never overwritten",
    )


def _up(to: argparse.ArgumentParser) -> None:
    _bootstrap(to)
    _listen(to)
    to.add_argument(
        "--log-level", choices=sorted(LEVELS), default="warning", help="(default: warning)"
    )


def _path(path: argparse.ArgumentParser) -> None:
    commands = path.add_subparsers(metavar="COMMAND", required=True)
    opening = _command(commands, "open", "open anonymous paths to destinations", of="path")
    opening.add_argument(
        "destinations",
        nargs="+",
        metavar="DEST",
        help="an IP address or prefix, no name; of several, all are blocked before the first "
        "path is opened",
    )
    opening.add_argument(
        "--hops", type=whole_number(1, MAX_HOPS), metavar="N", help=f"1 to {MAX_HOPS}"
    )
    opening.add_argument("--strategy", metavar="NAME", help="path selection strategy")
    opening.add_argument(
        "--via",
        action="append",
        default=[],
        metavar="NODE[,NODE...]",
        help="hop to go through, a node id or overlay address; first hop first (repeatable)",
    )
    opening.add_argument(
        "--both-versions",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="block IPv6 as a whole while a path to an IPv4 destination is there, and the "
        "reverse, except for local addresses (default: [paths] both_versions)",
    )
    _command(commands, "list", "list the open paths", of="path")
    closing = _command(
        commands,
        "close",
        "close paths and free their destinations; works without a running node as well",
        of="path",
    )
    which = closing.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "which",
        nargs="*",
        default=[],
        metavar="PATH",
        help='a path\'s number or destination, as the list shows it, or "all"',
    )
    which.add_argument("--all", action="store_true", help="close every path")


def _stop(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--release",
        action="store_true",
        help="close every path first, so that packets to their destinations leave directly "
        "again; works without a running node as well",
    )


def _listen(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--listen",
        action="append",
        metavar=_ENDPOINT,
        help="UDP endpoint to listen on (repeatable)",
    )


def _bootstrap(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--bootstrap", action="append", metavar=_ENDPOINT, help="node to join through (repeatable)"
    )
