"""Turn errors of the operating system into one sentence for the user."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Final

from overlay.errors import BackendError

__all__ = ["privilege_remedy", "refused"]

_AS_ROOT: Final = "run as root, give the program CAP_NET_ADMIN, or start it inside `unshare -Urn`"
_IN_NAMESPACE: Final = (
    "this process runs in a user namespace, whose rights are not enough for it; run it as root "
    "outside of that namespace"
)
_IN_USER_NAMESPACE_ALONE: Final = (
    "this process is root of a user namespace, but its network belongs to another one; start it "
    "with a network of its own, inside `unshare -Urn`"
)

_MORE_FILES: Final = (
    "raise the limit of open files, with `ulimit -n 1024` or with LimitNOFILE=1024 in a unit of "
    "systemd"
)

_UID_MAP: Final = Path("/proc/self/uid_map")
_NETWORK: Final = Path("/proc/self/ns/net")
_USER: Final = Path("/proc/self/ns/user")
_NS_GET_USERNS: Final = 0xB701
"""ioctl_ns(2): a descriptor of the user namespace that owns a namespace."""


def privilege_remedy() -> str:
    """Return what the user can do about missing rights, which depends on the user namespace."""
    try:
        if _UID_MAP.read_text(encoding="ascii").split() == ["0", "0", "4294967295"]:
            return _AS_ROOT
        if os.geteuid() != 0:
            return _AS_ROOT
        return _IN_NAMESPACE if _owns_network() else _IN_USER_NAMESPACE_ALONE
    except OSError:  # no /proc, or an owner that this process may not see
        return _AS_ROOT


def _owns_network() -> bool:
    with _NETWORK.open("rb") as network:
        try:
            owner = fcntl.ioctl(network.fileno(), _NS_GET_USERNS)
        except PermissionError:  # the owner is a namespace above this one
            return False
        try:
            return os.fstat(owner).st_ino == _USER.stat().st_ino
        finally:
            os.close(owner)


def refused(operation: str, error: OSError, remedy: str = "") -> BackendError:
    """Return the error "OPERATION failed (errno text): remedy."; raise it ``from error``.

    ``operation`` must not name a peer or destination, because the message may be logged. If rights
    are missing and no ``remedy`` is given, :func:`privilege_remedy` supplies it. A limit of open
    files has the same remedy everywhere.
    """
    if not remedy and error.errno in (errno.EPERM, errno.EACCES):
        remedy = privilege_remedy()
    if error.errno in (errno.EMFILE, errno.ENFILE):
        remedy = _MORE_FILES
    reason = os.strerror(error.errno) if error.errno else str(error)
    return BackendError(f"{operation} failed ({reason}){': ' + remedy if remedy else ''}.")
