"""``overlay up``: run a node until a signal or a request on its control socket stops it."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Protocol

import trio

from overlay.addresses import Endpoint, format_address
from overlay.cli.answers import CommandOutput
from overlay.cli.blocked import kept_text
from overlay.cli.places import configuration_file
from overlay.config import Configuration, load_configuration
from overlay.config.values import endpoint, endpoint_problem
from overlay.errors import ConfigurationError
from overlay.identity import LocalIdentity
from overlay.keyfile import read_identity
from overlay.logs import EventLog, Word, configure_logging
from overlay.system.confinement import confine_process

__all__ = ["RunNode", "run_until_stopped", "up"]

_STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

_log = EventLog(__name__)

_WHY_SECRET: Final = (
    "at debug level the log has the times at which paths open, fail and move, which an attacker "
    "can correlate with traffic elsewhere; keep it secret and delete it after use"
)

Announce = Callable[[CommandOutput], None]


class RunNode(Protocol):
    """Run a node until it is cancelled.

    The node calls ``task_status.started(count)`` when it is ready. ``count()`` returns the number
    of destinations that are blocked or carried by a path. ``count`` may be None.
    """

    async def __call__(
        self,
        configuration: Configuration,
        identity: LocalIdentity,
        *,
        task_status: trio.TaskStatus[Callable[[], int]] = ...,
    ) -> None:
        """Run the node with this configuration and identity."""
        ...


def up(arguments: argparse.Namespace, run_node: RunNode | None, announce: Announce) -> None:
    """Run a node and return when it has stopped.

    Args:
        arguments: the parsed command line.
        run_node: replaces :func:`overlay.node.run_node`, which None selects.
        announce: prints that the node is up, and later how many destinations stay blocked.

    Raises:
        ConfigurationError: the configuration, the key file or an argument is wrong.
        OverlayError: the node could not start, or failed.
    """
    file = configuration_file(arguments.config)
    configuration = _with_arguments(load_configuration(file), arguments, file)
    make = "overlay init" if arguments.config is None else f"overlay init --config {file}"
    identity = read_identity(configuration.node.key_file, make=make)
    level = "debug" if arguments.debug else arguments.log_level
    configure_logging(level)
    if level == "debug":
        _log.warning("log.is_secret", why=Word(_WHY_SECRET))
    os.umask(0o077)  # only the user of the node may read files that the node creates
    if run_node is None:
        from overlay.node import run_node as real_run_node

        # A program that passes its own node must decide itself how to confine its process.
        confine_process(_files(configuration, arguments))
        run_node = real_run_node
    try:
        trio.run(run_until_stopped, run_node, configuration, identity, announce)
    except ConfigurationError as error:
        if not str(error).startswith("["):
            raise
        raise ConfigurationError(f"{file}: {error}") from error  # "[" begins a section's name


def _files(configuration: Configuration, arguments: argparse.Namespace) -> Iterator[Path]:
    """Yield the files and directories that the node reads and writes.

    Root needs an additional capability for those of them that belong to another user.
    """
    node = configuration.node
    yield from (node.state_dir, node.key_file, node.control_socket.parent)
    if arguments.config is not None:
        yield arguments.config


async def run_until_stopped(
    run_node: RunNode, configuration: Configuration, identity: LocalIdentity, announce: Announce
) -> None:
    """Run the node until SIGINT, SIGTERM or a request to stop. SIGHUP is ignored."""
    up = _Announcement(announce, _up_answer(configuration, identity))
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(_cancel_on_signal, nursery.cancel_scope)
            await run_node(configuration, identity, task_status=up)
            # The node was stopped through its control socket, so end the task that awaits signals.
            nursery.cancel_scope.cancel()
    finally:
        up.ended()


class _Announcement:
    """A task status that announces when the node is up, and which destinations stay blocked."""

    def __init__(self, announce: Announce, answer: CommandOutput) -> None:
        self._announce = announce
        self._answer = answer
        self._blocked: Callable[[], int] | None = None

    def started(self, value: Callable[[], int] | None = None) -> None:
        self._blocked = value
        self._announce(self._answer)

    def ended(self) -> None:
        blocked = self._blocked() if self._blocked is not None else 0
        if blocked:
            # Standard output may be closed, as after the hang-up of a terminal. The log has it too.
            with contextlib.suppress(OSError):
                self._announce(
                    CommandOutput(f"Stopped. {kept_text(blocked)}", {"blocked": blocked})
                )


async def _cancel_on_signal(
    scope: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(*_STOP_SIGNALS, signal.SIGHUP) as signals:
        task_status.started()
        async for number in signals:
            if number == signal.SIGHUP:
                # The terminal was closed, or a service manager asks for a reload, which a node does
                # not support.
                _log.warning("node.hangup_ignored")
                continue
            scope.cancel()
            return


def _with_arguments(
    configuration: Configuration, arguments: argparse.Namespace, file: Path
) -> Configuration:
    """Return the configuration with the options of the command line.

    ``--listen`` and ``--socket`` replace the settings, and ``--bootstrap`` adds to them.
    """
    network = configuration.network
    given = _endpoints("--bootstrap", arguments.bootstrap or [])
    for each in given:
        allow = f"set allow_private_endpoints = true below [network] in {file}"
        problem = endpoint_problem(each, private=network.allow_private_endpoints, allow=allow)
        if problem is not None:
            raise ConfigurationError(f'--bootstrap has "{each}", {problem}.')
    listen = _endpoints("--listen", arguments.listen or []) or network.listen
    control_socket = arguments.socket or configuration.node.control_socket
    try:
        return dataclasses.replace(
            configuration,
            network=dataclasses.replace(
                network,
                listen=tuple(dict.fromkeys(listen)),
                bootstrap=tuple(dict.fromkeys((*network.bootstrap, *given))),
            ),
            node=dataclasses.replace(configuration.node, control_socket=control_socket.absolute()),
        )
    except ValueError as error:  # the arguments contradict the file
        raise ConfigurationError(f"{file}: {error}.") from error


def _endpoints(option: str, texts: list[str]) -> tuple[Endpoint, ...]:
    try:
        return tuple(endpoint(text) for text in texts)
    except ValueError as error:
        raise ConfigurationError(f"{option} {error}.") from error


def _up_answer(configuration: Configuration, identity: LocalIdentity) -> CommandOutput:
    address = format_address(identity.overlay_address)
    listen = [str(each) for each in configuration.network.listen]
    socket = configuration.node.control_socket
    text = f"Node {address} is up on {', '.join(listen)}; control socket {socket}."
    plain = {
        "up": True,
        "node_id": identity.node_id.hex(),
        "overlay_address": address,
        "listen": listen,
        "control_socket": str(socket),
    }
    return CommandOutput(text, plain)
