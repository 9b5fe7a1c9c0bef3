"""Check that the key file, the state directory and the control socket's directory are usable."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from overlay.control.socket_file import node_answers
from overlay.doctor.findings import Finding, Outcome, Purpose, Setup, tried
from overlay.keyfile import read_identity

__all__ = ["control_socket", "key_file", "state_directory"]

_NODE = (Purpose.NODE,)


def key_file(setup: Setup) -> list[Finding]:
    """Read the private keys as the node does."""
    if setup.path is None:
        said = 'no node is configured yet; create keys and a configuration with "overlay init".'
        return [Finding("private keys", Outcome.UNKNOWN, said, (Purpose.ADVICE,))]
    path = setup.configuration.node.key_file
    make = f"overlay init --config {setup.path}"

    def attempt() -> str:
        read_identity(path, make=make)
        return f"{path} is complete, and only this user can read it"

    return [tried("private keys", _NODE, attempt)]


def state_directory(setup: Setup) -> list[Finding]:
    """Check that only this user can write to the directory of the node's state."""
    if setup.path is None:
        return []
    path = setup.configuration.node.state_dir
    problem = directory_problem(path, private=False)
    if problem:
        return [Finding("state directory", Outcome.LACKS, problem, _NODE)]
    return [Finding("state directory", Outcome.WORKS, f"only this user can write to {path}")]


def control_socket(setup: Setup) -> list[Finding]:
    """Check whether the socket can be created, without creating it: a node may be starting."""
    if setup.path is None:
        return []
    path = setup.configuration.node.control_socket
    if path.is_socket() and node_answers(path):
        return [Finding("control socket", Outcome.WORKS, f"a node already answers at {path}")]
    problem = socket_problem(path)
    if problem:
        return [Finding("control socket", Outcome.LACKS, problem, _NODE)]
    return [Finding("control socket", Outcome.WORKS, f"{path} can be created")]


def socket_problem(path: Path) -> str:
    """Return the error message about a socket that cannot be created, "" if it can be."""
    if path.exists() and not path.is_socket():
        return (
            f"{path} has the name of the control socket and is not a socket; move it away, or "
            "set [node] control_socket to another path."
        )
    if path.parent.exists():
        return directory_problem(path.parent, private=True)
    ancestor = next(each for each in path.parent.parents if each.exists())
    if os.access(ancestor, os.W_OK | os.X_OK):
        return ""
    return (
        f"the control socket's directory {path.parent} cannot be created, because this user may "
        f"not write to {ancestor}; set [node] control_socket to a path that this user may write."
    )


def directory_problem(path: Path, *, private: bool) -> str:
    """Return the error message about a directory's owner or mode, or its absence, "" if it is fine.

    Args:
        path: the directory.
        private: require that other users cannot enter it (no bit of 0o077), and not only that they
            cannot write to it (no bit of 0o022).
    """
    try:
        status = path.stat()
    except OSError as error:
        return (
            f"the directory {path} cannot be used ({error.strerror}); create it with: "
            f"mkdir -p -m 700 {path}"
        )
    if not stat.S_ISDIR(status.st_mode):
        return f"{path} is not a directory; name one in section [node] of the configuration."
    if status.st_uid != os.geteuid():
        return f"{path} belongs to another user; run as its owner, or: chown {os.geteuid()} {path}"
    if status.st_mode & (0o077 if private else 0o022):
        return f"{path} is open to other users; close it with: chmod 700 {path}"
    if not os.access(path, os.W_OK | os.X_OK):
        return f"this user may not write to {path}; allow it with: chmod 700 {path}"
    return ""
