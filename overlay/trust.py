"""Refuse files that another user of this machine could change or replace.

A configuration file names plug-ins that run with the node's rights, and the destinations that an
exit permits. So only root and the user of the node may be able to write the file and each directory
above it. This includes the directories through which symbolic links lead. A directory with the
sticky bit (``/tmp``) is accepted, because only the owner of a file or link can replace it there.
The private group of an ordinary user may write. Many systems give each user a group of the same
name, which has no other member.
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
"""Maximum of symbolic links that Linux follows in one path (path_resolution(7))."""


def insist_on_trust(path: Path, descriptor: int) -> None:
    """Refuse an open file that another user may change or replace.

    Args:
        path: name of the file, for the message and for the directories above it.
        descriptor: the open file, so that the file that is checked is the one that is read.

    Raises:
        ConfigurationError: another user may change it; the message says what to do.
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
    """Refuse a path if another user may replace one of its directories or symbolic links.

    Raises:
        ConfigurationError: another user may do so; the message says what to do.
    """
    for step, status in _steps_to(path.absolute()):
        if stat.S_ISLNK(status.st_mode):
            _insist_on_link(step, status, path)
        else:
            _insist_on_directory(step, status, path)


def insist_on_peer(path: Path, user: int) -> None:
    """Refuse a control socket if another user may have created it instead of the node.

    A command would rely on the answers of that process, for example that a path is open. Root may
    use the node of another user if no third user may write its directories.

    Args:
        path: the socket.
        user: user id of the process that listens there.

    Raises:
        ConfigurationError: another user may have created it; the message says what to do.
    """
    trusted = _trusted_users()
    if user in trusted:
        return
    for _, status in _steps_to(path.parent.absolute()):
        is_open = not stat.S_ISLNK(status.st_mode) and status.st_mode & 0o022
        if is_open or status.st_uid not in {*trusted, user}:
            raise ConfigurationError(
                f"the process that answers at {path} belongs to user {user}, which may not be the "
                "user of the node; set [node] control_socket to a path in a directory that no "
                "other user may write to."
            )


def _insist_on_link(link: Path, status: os.stat_result, path: Path) -> None:
    if status.st_uid not in _trusted_users():
        raise ConfigurationError(
            f"the symbolic link {link} belongs to user {status.st_uid}, which could replace "
            f"{path.name}; name the file itself, or make the link again as this user."
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
        f"the directory {directory} {what}; move the node's files to a directory that only this "
        "user may write to, and name the file with --config."
    )


def _steps_to(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield every directory and symbolic link through which a path leads.

    Args:
        path: an absolute path. ``..`` is the parent of the directory that is reached so far. A part
            that does not exist, for example behind a link of /proc/self/fd, ends the iteration.
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
    # With an access control list, the group's bits are the maximum for every user in the list.
    if status.st_mode & stat.S_IWOTH:
        return True
    if not status.st_mode & stat.S_IWGRP:
        return False
    return has_access_list or not _is_private_group(status.st_gid)


def _is_private_group(group: int) -> bool:
    """Tell whether this user is the only member of a group; for root the result is False.

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
    # Some user databases cannot be listed completely, so the name of the group must match too.
    others |= {each.pw_name for each in pwd.getpwall() if each.pw_gid == group} - {own.pw_name}
    return own.pw_gid == group and entry.gr_name == own.pw_name and not others


def _has_access_list(file: int | Path) -> bool:
    try:
        return bool(os.getxattr(file, "system.posix_acl_access"))
    except OSError:  # no list, or a file system without lists
        return False


def _trusted_users() -> frozenset[int]:
    """Return root, this user, and the id that represents root inside a user namespace."""
    users = {0, os.geteuid()}
    if _UID_MAP.read_text(encoding="ascii").split() != _WHOLE_MAP:
        # All users that the namespace does not map have this id, including the machine's root.
        users.add(int(_OVERFLOW_UID.read_text(encoding="ascii")))
    return frozenset(users)
