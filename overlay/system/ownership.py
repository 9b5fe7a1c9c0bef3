"""One owner for each piece of kernel state, so that two nodes cannot undo each other's work.

The lock is the name of a TUN device that stays down and carries nothing. Such a name belongs to
the network namespace, as routes and filters do. Only a process that may change these can take
it (CAP_NET_ADMIN), so that no other local user can keep a node from its work. It is free again
as soon as its process is gone, however that process ended.
"""

from __future__ import annotations

import os
from typing import Final

from overlay.errors import BackendError
from overlay.system.tun import MAX_NAME_BYTES, claim_device_name

__all__ = ["LOCK_PREFIX", "Ownership"]

LOCK_PREFIX: Final = "ao-"
"""Beginning of the names of all devices that are locks."""


class Ownership:
    """The sole right to some kernel state of this network namespace, until :meth:`release`."""

    def __init__(self, what: str, remedy: str, *, called: str = "") -> None:
        """Take the right to ``what`` (letters, digits, hyphens; at most 12 bytes).

        ``called`` is what the user calls it; ``what`` by default.

        Raises:
            ValueError: the name does not fit into a device's name.
            BackendError: another running process has it and ``remedy`` says what to do, or
                this process may not make devices.
        """
        name = f"{LOCK_PREFIX}{what}"
        if len(name.encode()) > MAX_NAME_BYTES:
            raise ValueError(f"{what!r} is too long for the name of a lock.")
        descriptor = claim_device_name(name)
        if descriptor is None:
            raise BackendError(
                f"another node in this network namespace owns {called or what}: {remedy}."
            )
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the right back; harmless if repeated."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
