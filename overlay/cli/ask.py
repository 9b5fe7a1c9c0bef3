"""Commands that send one request to a running node through its control socket."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from overlay.addresses import IpNetwork
from overlay.cli.answers import CommandOutput
from overlay.cli.blocked import closed_answer, stop_text
from overlay.cli.places import control_socket_of
from overlay.cli.reports import path_text, paths_text, peers_text, status_text
from overlay.control.client import ControlClient, NoNodeAnswers
from overlay.control.codec import parse_hop
from overlay.control.reports import Report, encode_report
from overlay.control.service import (
    MAX_DESTINATIONS,
    OpenPathsRequest,
    PathReport,
)
from overlay.destinations import parse_destination
from overlay.errors import ConfigurationError, Malformed
from overlay.hop_limit import MAX_HOPS

__all__ = ["QUESTIONS", "ask"]

_STOP_TIMEOUT_S: Final = 10.0
"""A node informs its neighbours before it stops, which takes less than one second."""

_NUMBER: Final = re.compile(r"-?[0-9]{1,15}")

Question = Callable[[ControlClient, argparse.Namespace], CommandOutput]


def ask(arguments: argparse.Namespace) -> CommandOutput:
    """Send the request of the command, and return the answer of the node.

    Raises:
        ConfigurationError: an argument is wrong, or no node answers.
        RequestFailed: the node could not carry out the request.
    """
    # Check the arguments first, so that a mistake is reported even if no node runs.
    if arguments.command == "path open":
        arguments.request = _open_request(arguments)
    elif arguments.command == "path close":
        arguments.paths = [] if arguments.all else _paths_to_close(arguments.which)
    path = control_socket_of(arguments.config, arguments.socket)
    try:
        with ControlClient(path) as client:
            return QUESTIONS[arguments.command](client, arguments)
    except NoNodeAnswers as error:
        # Imported only here, because a request to a running node does not need these modules.
        from overlay.cli.without_node import without_node

        return without_node(arguments, error)


def _status(client: ControlClient, _arguments: argparse.Namespace) -> CommandOutput:
    report = client.status()
    return CommandOutput(status_text(report), encode_report(report))


def _peers(client: ControlClient, _arguments: argparse.Namespace) -> CommandOutput:
    reports = client.peers()
    return CommandOutput(peers_text(reports), _plain(reports))


def _list_paths(client: ControlClient, _arguments: argparse.Namespace) -> CommandOutput:
    reports = client.paths()
    return CommandOutput(paths_text(reports), _plain(reports))


def _open_paths(client: ControlClient, arguments: argparse.Namespace) -> CommandOutput:
    reports = client.open_paths(arguments.request)
    text = "\n\n".join(path_text(report) for report in reports)
    # The answer to one destination is one object, so that scripts read its fields directly.
    return CommandOutput(text, _plain(reports) if len(reports) > 1 else encode_report(reports[0]))


def _close_path(client: ControlClient, arguments: argparse.Namespace) -> CommandOutput:
    known, before = client.paths(), client.status().blocked_versions
    if not arguments.paths:  # --all
        closed, ended = client.close_path(None), list(known)
    else:
        # The user may name one path twice, by its number and by its destination.
        ended = list({r.number: r for r in (_named(known, w) for w in arguments.paths)}.values())
        closed = sum(client.close_path(report.number) for report in ended)
    after = client.status().blocked_versions
    unblocked = [version for version in before if version not in after]
    return closed_answer(closed, sum(report.permanent for report in ended), unblocked)


def _named(known: Sequence[PathReport], which: int | IpNetwork) -> PathReport:
    """Return the path with this number or destination.

    Raises:
        ConfigurationError: there is no such path.
    """
    for report in known:
        if which == report.number or str(which) == report.destination:
            return report
    listed = ", ".join(f"{each.number} ({each.destination})" for each in known) or "none"
    what = f"path {which}" if isinstance(which, int) else f"path to {which}"
    raise ConfigurationError(f"there is no {what}; open paths: {listed}.")


def _stop(client: ControlClient, arguments: argparse.Namespace) -> CommandOutput:
    report = client.stop(release=arguments.release)
    ended = client.wait_ended(_STOP_TIMEOUT_S)
    state = "Stopped." if ended else "The node is stopping."
    text = f"{state} {stop_text(report, release=arguments.release)}".strip()
    return CommandOutput(text, {"stopping": True, "stopped": ended, **encode_report(report)})


QUESTIONS: Final[Mapping[str, Question]] = MappingProxyType(
    {
        "status": _status,
        "peers": _peers,
        "path list": _list_paths,
        "path open": _open_paths,
        "path close": _close_path,
        "stop": _stop,
    }
)
"""The function of each command, by the words of the command line."""


def _open_request(arguments: argparse.Namespace) -> OpenPathsRequest:
    via = [node for given in arguments.via for node in given.split(",") if node]
    if len(via) > MAX_HOPS:
        raise ConfigurationError(f"--via names {len(via)} nodes; a path has at most {MAX_HOPS}.")
    if len(arguments.destinations) > MAX_DESTINATIONS:
        raise ConfigurationError(
            f"{len(arguments.destinations)} destinations are named; one request takes at most "
            f"{MAX_DESTINATIONS}."
        )
    try:
        return OpenPathsRequest(
            destinations=tuple(dict.fromkeys(map(parse_destination, arguments.destinations))),
            hops=arguments.hops,
            strategy=arguments.strategy,
            via=tuple(parse_hop(node) for node in via),
            both_versions=arguments.both_versions,
        )
    except Malformed as error:
        # The parser also reads messages of peers. Here the text is the user's, so it is a mistake.
        raise ConfigurationError(str(error)) from error


def _paths_to_close(which: Sequence[str]) -> list[int | IpNetwork]:
    """Return the paths that the user named, each once. An empty list means all paths."""
    words = [word for given in which for word in given.split(",") if word]
    if any(word.lower() == "all" for word in words):
        return []
    if not words:
        raise ConfigurationError("name a path by its number or destination, or write all.")
    try:
        named = [int(w) if _NUMBER.fullmatch(w) else parse_destination(w) for w in words]
    except Malformed as error:
        raise ConfigurationError(str(error)) from error
    return list(dict.fromkeys(named))


def _plain(reports: Sequence[Report]) -> list[dict[str, object]]:
    return [encode_report(report) for report in reports]
