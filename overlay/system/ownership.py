"""Locks on kernel state, so that two nodes do not change each other's state.

A lock is the name of a TUN device that stays down. The name belongs to the network namespace, as
routes and filters do. Taking it requires CAP_NET_ADMIN, so other local users cannot block a node.
The kernel releases it when the process ends, for whatever reason.

Other programs delete devices that they do not know (``ip link delete``, network managers). Then a
second node could take the lock, and each of the two nodes would restore its own state for ever. So
an owner calls :meth:`Ownership.retake` before it restores anything.
"""

from __future__ import annotations

import os
from typing import Final

from overlay.errors import BackendError
from overlay.system.tun import MAX_NAME_BYTES, claim_device_name, keeps_device_name

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
        self._name = name
        self._refusal = f"another node in this network namespace owns {called or what}: {remedy}."
        self._descriptor = self._claimed()

    def retake(self) -> bool:
        """Take the lock again if another program deleted, renamed or moved its device.

        Returns:
            Whether the lock was lost.

        Raises:
            BackendError: another process holds the lock by now, or this process may not create
                devices.
        """
        if self._descriptor >= 0 and keeps_device_name(self._descriptor, self._name):
            return False
        self.release()
        self._descriptor = self._claimed()
        return True

    def _claimed(self) -> int:
        descriptor = claim_device_name(self._name)
        if descriptor is None:
            raise BackendError(self._refusal)
        return descriptor

    def release(self) -> None:
        """Release the lock; may be called repeatedly."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
