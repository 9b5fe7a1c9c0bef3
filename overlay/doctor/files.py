"""Key file, state directory and the control socket's place: there, private, usable."""

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
    """Read the private keys as the node would, and forget them at once."""
    if setup.path is None:
        said = 'there is no configured node yet; make keys and a configuration with "overlay init".'
        return [Finding("private keys", Outcome.UNKNOWN, said, (Purpose.ADVICE,))]
    path = setup.configuration.node.key_file
    make = f"overlay init --config {setup.path}"

    def attempt() -> str:
        read_identity(path, make=make)
        return f"{path} is this user's alone and whole"

    return [tried("private keys", _NODE, attempt)]


def state_directory(setup: Setup) -> list[Finding]:
    """The node writes its topology store there, and nobody else may."""
    if setup.path is None:
        return []
    path = setup.configuration.node.state_dir
    problem = directory_problem(path, private=False)
    if problem:
        return [Finding("state directory", Outcome.LACKS, problem, _NODE)]
    return [Finding("state directory", Outcome.WORKS, f"{path} is writable by this user alone")]


def control_socket(setup: Setup) -> list[Finding]:
    """Whether the socket could be made; it is not, since a node may be about to make it."""
    if setup.path is None:
        return []
    path = setup.configuration.node.control_socket
    if path.is_socket() and node_answers(path):
        return [Finding("control socket", Outcome.WORKS, f"a node answers at {path} already")]
    problem = socket_problem(path)
    if problem:
        return [Finding("control socket", Outcome.LACKS, problem, _NODE)]
    return [Finding("control socket", Outcome.WORKS, f"{path} can be made")]


def socket_problem(path: Path) -> str:
    """Return the sentence about what stands in the way of a socket, "" if nothing does."""
    if path.exists() and not path.is_socket():
        return (
            f"{path} is in the way of the control socket and is no socket; move it away, or set "
            "[node] control_socket to another path."
        )
    if path.parent.exists():
        return directory_problem(path.parent, private=True)
    ancestor = next(each for each in path.parent.parents if each.exists())
    if os.access(ancestor, os.W_OK | os.X_OK):
        return ""
    return (
        f"the control socket's directory {path.parent} cannot be made, since this user may not "
        f"write to {ancestor}; set [node] control_socket to a path in a directory of this user."
    )


def directory_problem(path: Path, *, private: bool) -> str:
    """Return the sentence about a directory's owner, mode or absence, "" if it is fine.

    ``private``: others may not even enter it.
    """
    try:
        status = path.stat()
    except OSError as error:
        return (
            f"the directory {path} cannot be used ({error.strerror}); make it with: "
            f"mkdir -p -m 700 {path}"
        )
    if not stat.S_ISDIR(status.st_mode):
        return f"{path} is no directory; name one in the section [node] of the configuration."
    if status.st_uid != os.geteuid():
        return f"{path} belongs to another user; run as its owner, or: chown {os.geteuid()} {path}"
    if status.st_mode & (0o077 if private else 0o022):
        return f"{path} is open to other users; close it with: chmod 700 {path}"
    if not os.access(path, os.W_OK | os.X_OK):
        return f"this user may not write to {path}; allow it with: chmod 700 {path}"
    return ""
