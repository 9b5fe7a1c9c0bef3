"""A TUN device without a reader that is created again if another program deletes it.

The kernel backend uses such devices to lead packets to policies and programs. If another program
deletes one, its addresses and routes disappear as well, and circuits carry nothing. So the owner
compares::

    index of the device with this name  differs, or none: deleted or renamed ──> create it again
                                        the same, but down: routes are lost  ──> set it up again
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from overlay.system.failures import refused
from overlay.system.host_events import HostEvent
from overlay.system.tun import TunDevice

__all__ = ["DeviceOwner", "KeptDevice", "KeptDevices"]


class DeviceOwner(Protocol):
    """An owner of one or more such devices."""

    def hear(self, events: Collection[HostEvent]) -> None:
        """Process events about lost routes and rules; called before :meth:`lost`."""
        ...

    def lost(self) -> bool:
        """Tell whether a device was deleted, renamed or set down, or lost a route or rule."""
        ...

    def restore(self) -> None:
        """Create lost devices again, with their routes and rules.

        Raises:
            BackendError: the kernel refused, or another device has the name.
        """
        ...


class KeptDevice:
    """One device; ``prepare(name)`` sets its settings and routes whenever it is created."""

    def __init__(self, template: str, mtu: int, prepare: Callable[[str], None]) -> None:
        """Create the device.

        Args:
            template: a name, or a pattern such as ``anon%d``. A later device gets the same name.
            mtu: MTU in bytes, see :meth:`TunDevice.open`.
            prepare: called after each creation; it must tolerate repeated calls.

        Raises:
            BackendError: the kernel has no TUN devices, or a permission is missing.
        """
        self._prepare = prepare
        self._device = TunDevice.open(template, mtu)
        self.name, self._mtu = self._device.name, mtu
        try:
            self.index = self._device.index
            prepare(self.name)
        except BaseException:
            self.close()
            raise

    def lost(self) -> bool:
        """Tell whether the device was deleted, renamed or set down."""
        return not self._exists() or not self._device.is_up()

    def restore(self) -> None:
        """Create the device again with its name, or set it up; no effect if nothing is lost.

        Raises:
            BackendError: the kernel refused, or another device has the name.
        """
        if self._exists():
            self._device.set_up()
        else:
            self._device.close()  # deletes the device if it was renamed
            if _index_of(self.name) is not None:
                taken = OSError(errno.EEXIST, f"another device is named {self.name}")
                raise refused("creating a device of circuits again", taken, "delete that device")
            self._device = TunDevice.open(self.name, self._mtu)
            self.index = self._device.index
        self._prepare(self.name)

    def write_batch(self, packets: Sequence[bytes]) -> None:
        """Pass packets to the kernel as input of this device."""
        self._device.write_batch(packets)

    def close(self) -> None:
        """Remove the device; may be called repeatedly."""
        self._device.close()

    def _exists(self) -> bool:
        return _index_of(self.name) == self.index


class KeptDevices:
    """Owners of devices by name; implements ``overlay.node.shells.enforcement.Enforced``."""

    def __init__(self, owners: Mapping[str, DeviceOwner]) -> None:
        self._owners = dict(owners)

    def hear(self, events: Collection[HostEvent]) -> None:
        """Pass events to every owner."""
        for owner in self._owners.values():
            owner.hear(events)

    def disturbed(self) -> bool:
        """Return False, because notifications report every loss of a device."""
        return False

    def missing(self) -> tuple[str, ...]:
        """Return the names of owners with lost devices; nothing is changed."""
        return tuple(name for name, owner in self._owners.items() if owner.lost())

    def repair(self) -> tuple[str, ...]:
        """Create lost devices again; return the names of their owners.

        Raises:
            BackendError: the kernel refused.
        """
        lost = self.missing()
        for name in lost:
            self._owners[name].restore()
        return lost


def _index_of(name: str) -> int | None:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return None
