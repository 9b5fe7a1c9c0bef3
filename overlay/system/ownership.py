"""Locks on kernel state, so that two nodes do not change each other's state.

A lock is the name of a TUN device that stays down. The name belongs to the network namespace, as
routes and filters do. Taking it requires CAP_NET_ADMIN, so other local users cannot block a node.
The kernel releases it when the process ends, for whatever reason.
"""

from __future__ import annotations

import os
from typing import Final

from overlay.errors import BackendError
from overlay.system.tun import MAX_NAME_BYTES, claim_device_name

__all__ = ["LOCK_PREFIX", "Ownership"]

LOCK_PREFIX: Final = "ao-"
"""Prefix of the names of all devices that are locks."""


class Ownership:
    """A lock on some kernel state of this network namespace, held until :meth:`release`."""

    def __init__(self, what: str, remedy: str, *, called: str = "") -> None:
        """Take the lock.

        Args:
            what: name of the lock, at most 12 bytes of letters, digits and hyphens.
            remedy: what the user can do if another process holds it; a part of the message.
            called: name of the state for the user; by default ``what``.

        Raises:
            ValueError: the name is too long for the name of a device.
            BackendError: another process holds the lock, or this process may not create devices.
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
        """Release the lock; may be called repeatedly."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
