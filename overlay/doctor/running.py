"""Ask the running node of this configuration once, for all checks.

A running node knows more than a check can find out: the clocks of its peers, whether its bootstrap
nodes answer, and the state of its kill switch in the kernel.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Final

from overlay.control.client import ControlClient
from overlay.control.socket_file import node_answers
from overlay.doctor.findings import Finding, NodeStatus, Outcome, Purpose, Setup
from overlay.errors import OverlayError
from overlay.node.release import blocked_here, kill_switch_is_owned
from overlay.plurals import counted

__all__ = ["ask_running_node", "running_node"]

_ANSWER_S: Final = 1.0
"""Longest wait for the running node, so that the whole examination takes less than 3 s."""

_SUBJECT: Final = "running node"
_ADVICE: Final = (Purpose.ADVICE,)


def ask_running_node(setup: Setup) -> NodeStatus | None:
    """Return the state of the node that runs with this configuration, None if none runs.

    If it does not answer within ``_ANSWER_S``, the result has no report.
    """
    socket = setup.configuration.node.control_socket
    if setup.path is None or not socket.is_socket() or not node_answers(socket):
        return None
    begun = time.monotonic()
    try:
        with ControlClient(socket, timeout_s=_ANSWER_S) as client:
            status = client.status()
    except OverlayError:  # the node is too busy, or has stopped
        return NodeStatus(None, time.monotonic() - begun)
    return NodeStatus(status, time.monotonic() - begun)


def running_node(
    setup: Setup,
    blocked: Callable[[], Collection[object]] = blocked_here,
    owned: Callable[[], bool] = kill_switch_is_owned,
) -> list[Finding]:
    """Return the running node's summary, or what an ended node has left blocked."""
    if setup.path is None:
        return []
    node = setup.running
    if node is None:
        return [_absent(setup, 0 if owned() else len(blocked()))]
    if node.status is None:
        said = (
            f"it has not answered within {node.waited_s:.1f} s; if this persists, read its log "
            "(journalctl -u overlay), end its process, and start it again with: overlay up"
        )
        return [Finding(_SUBJECT, Outcome.LACKS, said, _ADVICE)]
    well = node.status.works and not node.status.network_problems
    outcome = Outcome.WORKS if well else Outcome.UNKNOWN
    return [Finding(_SUBJECT, outcome, node.status.verdict, _ADVICE)]


def _absent(setup: Setup, left: int) -> Finding:
    start = f"overlay up --config {setup.path}"
    if not left:
        said = f"none runs with this configuration; start it with: {start}"
        return Finding(_SUBJECT, Outcome.UNKNOWN, said, _ADVICE)
    are = "is" if left == 1 else "are"
    said = (
        f"none runs, and {counted(left, 'destination')} {are} blocked by a node that ended; "
        f"restore the paths with: {start}, or unblock the destinations with: overlay stop --release"
    )
    return Finding(_SUBJECT, Outcome.UNKNOWN, said, _ADVICE)
