"""Whether another user of this machine could change a file that a node obeys.

A configuration file names plug-ins that run with the node's rights, and says where circuits may
leave. So neither the file nor a directory on the way to it may be writable by users other than
root and the one that runs the node. A directory with the sticky bit (``/tmp``) is accepted,
because there only a file's owner can replace it. A group may write if it is root's or this
process's own group, because many systems give each user a group of the same name.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from overlay.errors import ConfigurationError

__all__ = ["insist_on_trust"]

_UID_MAP: Final = Path("/proc/self/uid_map")
_OVERFLOW_UID: Final = Path("/proc/sys/kernel/overflowuid")
_WHOLE_MAP: Final = ["0", "0", "4294967295"]


def insist_on_trust(path: Path, descriptor: int) -> None:
    """Refuse an open file that another user may change or replace.

    Args:
        path: its name, for the message and for the directories above it.
        descriptor: the file itself, so that what is checked is what is read.

    Raises:
        ConfigurationError: one sentence with the command that mends it.
    """
    _insist(path, os.fstat(descriptor))
    for directory in path.resolve().parents:
        _insist(directory, directory.stat())


def _insist(path: Path, status: os.stat_result) -> None:
    if status.st_uid not in _trusted_users():
        raise ConfigurationError(
            f"{path} belongs to user {status.st_uid}, which could change this node's "
            f"configuration; run as that user, or type: chown {os.geteuid()} {path}"
        )
    if stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX:
        return
    others = status.st_mode & stat.S_IWOTH
    group = status.st_mode & stat.S_IWGRP and status.st_gid not in (0, os.getegid())
    if others or group:
        raise ConfigurationError(
            f"{path} may be written by other users, which could change this node's "
            f"configuration; type: chmod go-w {path}"
        )


def _trusted_users() -> frozenset[int]:
    """Return root, this user, and what stands for root inside a user namespace."""
    users = {0, os.geteuid()}
    if _UID_MAP.read_text(encoding="ascii").split() != _WHOLE_MAP:
        # Users that the namespace does not map, the machine's root among them, all look alike.
        users.add(int(_OVERFLOW_UID.read_text(encoding="ascii")))
    return frozenset(users)
