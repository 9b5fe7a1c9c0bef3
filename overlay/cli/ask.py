"""Commands that ask a running node one thing through its control socket."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from overlay.apm.settings import MAX_HOPS
from overlay.cli.answers import Answer
from overlay.cli.places import control_socket_of
from overlay.cli.reports import path_text, paths_text, peers_text, status_text
from overlay.control.client import ControlClient
from overlay.control.codec import parse_destination, parse_hop
from overlay.control.model import OpenPathRequest
from overlay.control.reports import Report, encode_report
from overlay.errors import ConfigurationError, Malformed

__all__ = ["QUESTIONS", "ask"]

Question = Callable[[ControlClient, argparse.Namespace], Answer]


def ask(arguments: argparse.Namespace) -> Answer:
    """Ask what the command says.

    Raises:
        ConfigurationError: an argument is wrong, or no node answers.
        RequestFailed: the node said no.
    """
    if arguments.command == "path open":
        arguments.request = _open_request(arguments)  # a mistake is told before anybody is asked
    path = control_socket_of(arguments.config, arguments.socket)
    with ControlClient(path) as client:
        return QUESTIONS[arguments.command](client, arguments)


def _status(client: ControlClient, _arguments: argparse.Namespace) -> Answer:
    report = client.status()
    return Answer(status_text(report), encode_report(report))


def _peers(client: ControlClient, _arguments: argparse.Namespace) -> Answer:
    reports = client.peers()
    return Answer(peers_text(reports), _plain(reports))


def _list_paths(client: ControlClient, _arguments: argparse.Namespace) -> Answer:
    reports = client.paths()
    return Answer(paths_text(reports), _plain(reports))


def _open_path(client: ControlClient, arguments: argparse.Namespace) -> Answer:
    report = client.open_path(arguments.request)
    return Answer(path_text(report), encode_report(report))


def _close_path(client: ControlClient, arguments: argparse.Namespace) -> Answer:
    closed = client.close_path(None if arguments.all else arguments.number)
    return Answer(f"Closed {closed} path{'' if closed == 1 else 's'}.", {"closed": closed})


def _stop(client: ControlClient, _arguments: argparse.Namespace) -> Answer:
    client.stop()
    return Answer("The node is stopping.", {"stopping": True})


QUESTIONS: Final[Mapping[str, Question]] = MappingProxyType(
    {
        "status": _status,
        "peers": _peers,
        "path list": _list_paths,
        "path open": _open_path,
        "path close": _close_path,
        "stop": _stop,
    }
)
"""Commands by their names on the command line."""


def _open_request(arguments: argparse.Namespace) -> OpenPathRequest:
    if len(arguments.via) > MAX_HOPS:
        raise ConfigurationError(
            f"--via names {len(arguments.via)} nodes; a path has at most {MAX_HOPS}."
        )
    try:
        return OpenPathRequest(
            destination=parse_destination(arguments.destination),
            hops=arguments.hops,
            strategy=arguments.strategy,
            via=tuple(parse_hop(node) for node in arguments.via),
        )
    except Malformed as error:
        # The user's words, not a peer's: the same sentence, another fault.
        raise ConfigurationError(str(error)) from error


def _plain(reports: Sequence[Report]) -> list[dict[str, object]]:
    return [encode_report(report) for report in reports]
