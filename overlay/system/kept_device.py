"""A TUN device that nothing reads, and that comes back under its name if it is deleted.

The kernel backend's devices lead packets to policies and programs. If another program deletes
one, its addresses and routes go with it, and circuits carry nothing. So the owner compares::

    name -> number of the device?  another or none: deleted or renamed ──> made anew
                                   the same, but down: its routes are gone ──> set up again
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
        """Take note of lost routes and rules, before :meth:`lost`."""
        ...

    def lost(self) -> bool:
        """Tell whether a device was deleted, renamed or set down, or lost a route or rule."""
        ...

    def restore(self) -> None:
        """Make anew what is lost, with its routes and rules.

        Raises:
            BackendError: the kernel refused, or another device has the name.
        """
        ...


class KeptDevice:
    """One device; ``prepare(name)`` gives it settings and routes each time it was made."""

    def __init__(self, template: str, mtu: int, prepare: Callable[[str], None]) -> None:
        """Make it.

        Args:
            template: its name, or for example ``anon%d``; it keeps the name that it gets.
            mtu: bytes, see :meth:`TunDevice.open`.
            prepare: what must be done after each making; it may run twice.

        Raises:
            BackendError: there are no TUN devices, or no permission.
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
        """Tell whether it was deleted, renamed or set down."""
        return not self._exists() or not self._device.is_up()

    def restore(self) -> None:
        """Make it anew under its name, or set it up; harmless if nothing is lost.

        Raises:
            BackendError: the kernel refused, or another device has the name.
        """
        if self._exists():
            self._device.set_up()
        else:
            self._device.close()  # a renamed one goes with its descriptor
            if _index_of(self.name) is not None:
                taken = OSError(errno.EEXIST, f"another device is named {self.name}")
                raise refused("making a device of circuits anew", taken, "delete that device")
            self._device = TunDevice.open(self.name, self._mtu)
            self.index = self._device.index
        self._prepare(self.name)

    def write_batch(self, packets: Sequence[bytes]) -> None:
        """Hand packets to the kernel as if they came from outside over this device."""
        self._device.write_batch(packets)

    def close(self) -> None:
        """Remove it; harmless if repeated."""
        self._device.close()

    def _exists(self) -> bool:
        return _index_of(self.name) == self.index


class KeptDevices:
    """Keep devices in force, by what each is called; see ``overlay.node.enforcement.Enforced``."""

    def __init__(self, owners: Mapping[str, DeviceOwner]) -> None:
        self._owners = dict(owners)

    def hear(self, events: Collection[HostEvent]) -> None:
        """Let every owner take note."""
        for owner in self._owners.values():
            owner.hear(events)

    def disturbed(self) -> bool:
        """Tell that nothing is missing of which no notification tells."""
        return False

    def missing(self) -> tuple[str, ...]:
        """Return what the lost devices are called; nothing is changed."""
        return tuple(name for name, owner in self._owners.items() if owner.lost())

    def repair(self) -> tuple[str, ...]:
        """Make lost devices anew; return what they are called.

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
