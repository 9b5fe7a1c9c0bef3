"""One owner for each piece of kernel state, so that two nodes cannot undo each other's work.

The lock is an abstract Unix socket: it belongs to the network namespace as routes and
filters do, leaves no file, and is free again as soon as its process is gone, however it went.
"""

from __future__ import annotations

import errno
import socket

from overlay.errors import BackendError
from overlay.system.failures import refused

__all__ = ["Ownership"]


class Ownership:
    """The sole right to some kernel state of this network namespace, until :meth:`release`."""

    def __init__(self, what: str, remedy: str) -> None:
        """Take the right to ``what`` (letters, digits, hyphens).

        Raises:
            BackendError: another running process has it; ``remedy`` says what to do.
        """
        self._lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._lock.bind(f"\0anonymous-overlay-{what}")
        except OSError as error:
            self._lock.close()
            if error.errno != errno.EADDRINUSE:
                raise refused(f"taking the right to {what}", error) from error
            raise BackendError(
                f"another node in this network namespace owns {what}: {remedy}."
            ) from error

    def release(self) -> None:
        """Give the right back; harmless if repeated."""
        self._lock.close()
