"""The control socket's file: made for its owner alone, never taken from a node that lives."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from overlay.errors import BackendError, ConfigurationError

__all__ = ["claimed_socket", "node_answers"]

_BACKLOG: Final = 256
"""Connections that wait to be accepted; the kernel caps it at net.core.somaxconn (listen(2))."""


@contextlib.contextmanager
def claimed_socket(path: Path) -> Iterator[socket.socket]:
    """Listen on a Unix socket at ``path`` (mode 0600) while the context lasts.

    The directory is made with mode 0700 if it does not exist. What a dead node left behind is
    replaced. Afterwards the file is removed, unless somebody put another in its place.

    Raises:
        ConfigurationError: a live node has the socket, or the place is not safe for one.
        BackendError: the operating system refused.
    """
    try:
        directory = _open_directory(path.parent)
    except OSError as error:
        raise BackendError(
            f"the control socket's directory {path.parent} cannot be used ({error.strerror}); "
            "choose another with [node] control_socket."
        ) from error
    try:
        listener, inode = _claim(path, directory)
    finally:
        os.close(directory)
    try:
        yield listener
    finally:
        listener.close()
        with contextlib.suppress(FileNotFoundError):
            if path.lstat().st_ino == inode:
                path.unlink()


def _open_directory(path: Path) -> int:
    """Make the directory if need be, insist that it is private, and return it opened."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    status = os.fstat(descriptor)
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        os.close(descriptor)
        raise ConfigurationError(
            f"the control socket's directory {path} must be this user's alone; run: "
            f"chmod 700 {path}, or choose another with [node] control_socket."
        )
    return descriptor


def _claim(path: Path, directory: int) -> tuple[socket.socket, int]:
    """Bind under a lock on the directory, so that of two nodes that start at once one wins."""
    fcntl.flock(directory, fcntl.LOCK_EX)
    _remove_if_dead(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    umask = os.umask(0o177)
    try:
        listener.bind(bytes(path))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise BackendError(
            f"the control socket {path} cannot be made ({error.strerror or error}); choose another "
            "with [node] control_socket."
        ) from error
    finally:
        os.umask(umask)
    return listener, path.lstat().st_ino


def _remove_if_dead(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigurationError(
            f"{path} is in the way of the control socket and is no socket; move it away, or choose "
            "another path with [node] control_socket."
        )
    if node_answers(path):
        raise ConfigurationError(
            f'a node already runs with this control socket ({path}); stop it with "overlay stop", '
            "or give this one a directory of its own."
        )
    path.unlink()


def node_answers(path: Path) -> bool:
    """Tell whether a process listens on the socket that lies at ``path``."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(bytes(path))
        except ConnectionRefusedError:
            return False
        except OSError:
            return (
                True  # a full backlog, say: somebody listens, or at least it is not ours to remove
            )
        return True
