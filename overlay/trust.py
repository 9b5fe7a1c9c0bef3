"""Whether another user of this machine could change a file that a node obeys.

A configuration file names plug-ins that run with the node's rights, and says where circuits may
leave. So neither the file nor a directory on the way to it may be writable by users other than
root and the one that runs the node. That holds for every step of the way, also where symbolic
links lead through further directories. A directory with the sticky bit (``/tmp``) is accepted,
because there only the owner of a file or link can replace it. The private group of an ordinary
user may write: many systems give each user a group of the same name, of which no other user is a
member.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from overlay.errors import ConfigurationError

__all__ = ["insist_on_peer", "insist_on_trust", "insist_on_way"]

_UID_MAP: Final = Path("/proc/self/uid_map")
_OVERFLOW_UID: Final = Path("/proc/sys/kernel/overflowuid")
_WHOLE_MAP: Final = ["0", "0", "4294967295"]
_MOST_LINKS: Final = 40
"""Symbolic links that Linux follows on one way (path_resolution(7))."""


def insist_on_trust(path: Path, descriptor: int) -> None:
    """Refuse an open file that another user may change or replace.

    Args:
        path: its name, for the message and for the directories above it.
        descriptor: the file itself, so that what is checked is what is read.

    Raises:
        ConfigurationError: one sentence that says what to do.
    """
    status = os.fstat(descriptor)
    if status.st_uid not in _trusted_users():
        raise ConfigurationError(
            f"{path} belongs to user {status.st_uid}, which could change this node's "
            f"configuration; run as that user, or type: chown {os.geteuid()} {path}"
        )
    if _others_may_write(status, _has_access_list(descriptor)):
        raise ConfigurationError(
            f"{path} may be written by other users, which could change this node's "
            f"configuration; type: chmod go-w {path}"
        )
    insist_on_way(path)


def insist_on_way(path: Path) -> None:
    """Refuse a path of which another user may replace a step.

    Raises:
        ConfigurationError: one sentence that says what to do.
    """
    for step, status in _steps_to(path.absolute()):
        if stat.S_ISLNK(status.st_mode):
            _insist_on_link(step, status, path)
        else:
            _insist_on_directory(step, status, path)


def insist_on_peer(path: Path, user: int) -> None:
    """Refuse a control socket if another user may have taken the place of the node.

    A command would believe what that process says, for example that a path is open. A node of
    another user, which root may ask, lies in directories that no further user may write.

    Args:
        path: the socket.
        user: to which the process belongs that listens there.

    Raises:
        ConfigurationError: one sentence that says what to do.
    """
    trusted = _trusted_users()
    if user in trusted:
        return
    for _, status in _steps_to(path.parent.absolute()):
        is_open = not stat.S_ISLNK(status.st_mode) and status.st_mode & 0o022
        if is_open or status.st_uid not in {*trusted, user}:
            raise ConfigurationError(
                f"the process that answers at {path} belongs to user {user}, which may have taken "
                "the place of the node; let [node] control_socket name a place that no other user "
                "may write to."
            )


def _insist_on_link(link: Path, status: os.stat_result, path: Path) -> None:
    if status.st_uid not in _trusted_users():
        raise ConfigurationError(
            f"the symbolic link {link} belongs to user {status.st_uid}, which could replace "
            f"{path.name}; name the file itself, or make the link anew as this user."
        )


def _insist_on_directory(directory: Path, status: os.stat_result, path: Path) -> None:
    if status.st_uid not in _trusted_users():
        what = f"belongs to user {status.st_uid}, which could replace {path.name}"
    elif not status.st_mode & stat.S_ISVTX and _others_may_write(
        status, _has_access_list(directory)
    ):
        what = f"may be written by other users, which could replace {path.name}"
    else:
        return
    raise ConfigurationError(
        f"the directory {directory} {what}; move the node's files to a directory of this user "
        "alone, and name it with --config."
    )


def _steps_to(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield every directory and symbolic link in which a step of the way could be replaced.

    Args:
        path: absolute; ``..`` stands for the parent of where the way has led. What is not there, as
            behind a link of /proc/self/fd, ends the way: all that leads there was yielded.
    """
    here, ahead, links = Path(path.anchor), list(reversed(path.parts[1:])), 0
    yield here, here.lstat()
    while ahead:
        part = ahead.pop()
        step = here.parent if part == ".." else here / part
        try:
            status = step.lstat()
        except OSError:
            return
        if stat.S_ISLNK(status.st_mode) and links < _MOST_LINKS:
            links += 1
            yield step, status
            target = step.readlink()
            ahead += reversed(target.parts[1:] if target.is_absolute() else target.parts)
            here = Path(target.anchor) if target.is_absolute() else here
            continue
        here = step
        if stat.S_ISDIR(status.st_mode):
            yield here, status


def _others_may_write(status: os.stat_result, has_access_list: bool) -> bool:
    # With an access control list the group's bits tell the most that any user of it may do.
    if status.st_mode & stat.S_IWOTH:
        return True
    if not status.st_mode & stat.S_IWGRP:
        return False
    return has_access_list or not _is_private_group(status.st_gid)


def _is_private_group(group: int) -> bool:
    """Tell whether this user is the only one of a group; root has none.

    A group that the system's user database does not know counts as shared.
    """
    user = os.geteuid()
    if user == 0:
        return False
    try:
        own, entry = pwd.getpwuid(user), grp.getgrgid(group)
    except KeyError:
        return False
    others = {name for name in entry.gr_mem if name != own.pw_name}
    # A database of users that cannot be listed whole leaves the name as the only sign.
    others |= {each.pw_name for each in pwd.getpwall() if each.pw_gid == group} - {own.pw_name}
    return own.pw_gid == group and entry.gr_name == own.pw_name and not others


def _has_access_list(file: int | Path) -> bool:
    try:
        return bool(os.getxattr(file, "system.posix_acl_access"))
    except OSError:  # no list, or a file system without lists
        return False


def _trusted_users() -> frozenset[int]:
    """Return root, this user, and what stands for root inside a user namespace."""
    users = {0, os.geteuid()}
    if _UID_MAP.read_text(encoding="ascii").split() != _WHOLE_MAP:
        # Users that the namespace does not map, the machine's root among them, all look alike.
        users.add(int(_OVERFLOW_UID.read_text(encoding="ascii")))
    return frozenset(users)
