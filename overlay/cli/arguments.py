"""The parser of the command line, with all help texts."""

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
    """Return the parser. Its result has the command as ``command``, such as "path open".

    Args:
        argv: the words that the caller will parse, ``sys.argv[1:]`` by default. Commands of other
            packages are loaded only if these words do not begin with a built-in command.
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
            "create the keys of a node and a commented configuration file; if the file exists "
            "without its keys, create only the keys",
        )
    )
    _up(_command(commands, "up", "run a node until it is stopped"))
    _command(
        commands,
        "doctor",
        "check this host for everything that the node needs and show how to fix problems; "
        "exit status 1 if the node cannot run",
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
        "--advertise",
        action="append",
        metavar=_ENDPOINT,
        help="endpoint at which other nodes reach this node (repeatable)",
    )
    _bootstrap(to)
    to.add_argument(
        "--exit",
        action="store_true",
        help="make this node an exit, which forwards packets of others to their destinations "
        "(default: off)",
    )
    to.add_argument(
        "--identity-cost-bits",
        type=whole_number(0),
        metavar="BITS",
        help="cost of an identity that the network requires; each bit doubles the search for a "
        "key (16: some seconds, 20: a minute)",
    )
    to.add_argument(
        "--private",
        action="store_true",
        help="allow private and loopback endpoints, for laboratories and private meshes "
        "(default: off)",
    )
    to.add_argument(
        "--force",
        action="store_true",
        help="replace an existing configuration; the former file is kept beside the new one, "
        "and keys are never overwritten",
    )


def _up(to: argparse.ArgumentParser) -> None:
    _bootstrap(to)
    _listen(to)
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
    opening.add_argument(
        "--hops",
        type=whole_number(1, MAX_HOPS),
        metavar="N",
        help=f"number of hops, 1 to {MAX_HOPS}, including the exit (default: as configured)",
    )
    opening.add_argument(
        "--strategy", metavar="NAME", help="path selection strategy (default: as configured)"
    )
    opening.add_argument(
        "--via",
        action="append",
        default=[],
        metavar="NODE[,NODE...]",
        help="hops that the path must use, as node ids or overlay addresses, first hop first "
        "(repeatable)",
    )
    opening.add_argument(
        "--both-versions",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="block all IPv6 destinations while a path to an IPv4 destination exists, and the "
        "reverse, except local addresses (default: [paths] both_versions)",
    )
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


def _listen(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--listen",
        action="append",
        metavar=_ENDPOINT,
        help="UDP endpoint to listen on (repeatable; default: [network] listen)",
    )


def _bootstrap(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--bootstrap",
        action="append",
        metavar=_ENDPOINT,
        help="node through which this node joins the overlay (repeatable)",
    )
