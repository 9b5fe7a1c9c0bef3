"""Create the file of the control socket for this user alone, unless a running node has it."""

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
"""Connections that wait to be accepted; the kernel's limit is net.core.somaxconn (listen(2))."""


@contextlib.contextmanager
def claimed_socket(path: Path) -> Iterator[socket.socket]:
    """Listen on a Unix socket at ``path`` (mode 0600) while the context lasts.

    The directory is created with mode 0700 if it does not exist. The socket of a node that has
    ended is replaced. At the end the file is removed, unless another file has replaced it.

    Raises:
        ConfigurationError: a running node has the socket, or its directory is not private.
        BackendError: the operating system could not create the socket or its directory.
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
    """Return a descriptor of the directory; create it if it is missing, and check its mode."""
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
    """Bind the socket; return it with its inode number.

    The directory is locked, so that only one of two nodes that start together gets the socket.
    """
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
    """Tell whether a process listens on the socket at ``path``."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(bytes(path))
        except ConnectionRefusedError:
            return False
        except OSError:
            return (
                True  # for example a full backlog: a node listens, so the file must not be removed
            )
        return True
