"""How refusals of the operating system become one sentence for the user."""

from __future__ import annotations

import errno
import os
from typing import Final

from overlay.errors import BackendError

__all__ = ["PRIVILEGE_REMEDY", "refused"]

PRIVILEGE_REMEDY: Final = (
    "run as root, give the program CAP_NET_ADMIN, or start it inside `unshare -Urn`"
)


def refused(operation: str, error: OSError, remedy: str = "") -> BackendError:
    """Return the error "OPERATION failed (errno text): remedy."; raise it ``from error``.

    ``operation`` names what was tried without any peer or destination, since the message
    may be logged. Missing rights have the same remedy everywhere and need none given.
    """
    if not remedy and error.errno in (errno.EPERM, errno.EACCES):
        remedy = PRIVILEGE_REMEDY
    reason = os.strerror(error.errno) if error.errno else str(error)
    return BackendError(f"{operation} failed ({reason}){': ' + remedy if remedy else ''}.")
