"""Commands that unblock destinations while no node runs, directly in the kernel."""

from __future__ import annotations

import argparse

from overlay.cli.answers import CommandOutput
from overlay.cli.blocked import freed_text
from overlay.cli.places import configuration_of
from overlay.control.client import NoNodeAnswers
from overlay.errors import ConfigurationError
from overlay.node.release import Freed, blocked_here, free_blocked, kill_switch_is_owned
from overlay.plurals import counted

__all__ = ["without_node"]


def without_node(arguments: argparse.Namespace, error: NoNodeAnswers) -> CommandOutput:
    """Carry out a command without a node if that is possible.

    Raises:
        NoNodeAnswers: the command needs a node; the message has the number of destinations that
            stay blocked.
        ConfigurationError: the configuration is missing, or a destination is not blocked.
        BackendError: this user may not change routes and filters, unlike root.
    """
    if arguments.command == "stop" and arguments.release:
        return _answer(free_blocked(configuration_of(arguments.config)))
    if arguments.command == "path close":
        return _closed(arguments)
    blocked = len(blocked_here())
    if not blocked:
        raise error
    said = str(error).rstrip(".")
    if kill_switch_is_owned():
        raise NoNodeAnswers(
            f"{said}; another node runs on this host and blocks or carries "
            f"{counted(blocked, 'destination')}: name its control socket with --socket, or its "
            "configuration with --config."
        )
    raise NoNodeAnswers(
        f"{said}; {counted(blocked, 'destination')} on this host "
        f'{"is" if blocked == 1 else "are"} blocked by a node that ended: "overlay up" restores '
        'the paths, "overlay stop --release" unblocks the destinations.'
    )


def _closed(arguments: argparse.Namespace) -> CommandOutput:
    configuration = configuration_of(arguments.config)
    if not arguments.paths:  # --all
        return _answer(free_blocked(configuration))
    named = [each for each in arguments.paths if not isinstance(each, int)]
    if len(named) != len(arguments.paths):
        raise ConfigurationError(
            "no node runs, so paths have no numbers; name destinations, or use --all."
        )
    freed = free_blocked(configuration, named)
    if not freed.destinations and not freed.versions:
        raise ConfigurationError(
            "no node runs, and no such destination is blocked; unblock everything with: "
            "overlay path close --all"
        )
    return _answer(freed)


def _answer(freed: Freed) -> CommandOutput:
    count = len(freed.destinations)
    versions = [f"IPv{version}" for version in freed.versions]
    text = freed_text(count, versions)
    if freed.permanent:
        text += (
            f" {counted(freed.permanent, 'destination')} of [paths] permanent will be blocked "
            "again at the next start."
        )
    plain = {
        "node": False,
        "closed": count,
        "released": count,
        "blocked": 0,
        "permanent": freed.permanent,
        "unblocked_versions": versions,
    }
    return CommandOutput(text, plain)
