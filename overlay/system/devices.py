"""List the devices of this network namespace, and those that lead to the outside."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
from dataclasses import dataclass
from typing import Final

from overlay.system.failures import refused
from overlay.system.host_networks import ROUTER, used_networks
from overlay.system.uplinks import find_uplinks

__all__ = ["Device", "bring_up", "default_gateways", "outward_devices", "up_devices"]

# From Linux's sockios.h and if.h.
_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_SIOCGIFMTU: Final = 0x8921
_IFF_UP: Final = 0x0001
_IFF_LOOPBACK: Final = 0x0008


@dataclass(frozen=True, slots=True)
class Device:
    """A device that is up; ``mtu`` in bytes."""

    name: str
    mtu: int
    loopback: bool = False


def up_devices() -> tuple[Device, ...]:
    """Return all devices that are up, sorted by name.

    They are read by ioctl, because /sys may show another network namespace.
    """
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # the device was deleted meanwhile
                flags = _ask(control, _SIOCGIFFLAGS, name, "H")
                if flags & _IFF_UP:
                    mtu = _ask(control, _SIOCGIFMTU, name, "i")
                    found.append(Device(name, mtu, bool(flags & _IFF_LOOPBACK)))
    return tuple(sorted(found, key=lambda device: device.name))


def bring_up(name: str) -> bool:
    """Set a device up; return whether it was down.

    Raises:
        BackendError: the device does not exist, or a permission is missing.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        try:
            flags = _ask(control, _SIOCGIFFLAGS, name, "H")
            if flags & _IFF_UP:
                return False
            request = struct.pack("16sH22x", name.encode(), flags | _IFF_UP)
            fcntl.ioctl(control, _SIOCSIFFLAGS, request)
        except OSError as error:
            raise refused(f"setting up the device {name}", error) from error
    return True


def outward_devices() -> frozenset[str]:
    """Return the names of the devices over which IPv4 or IPv6 packets leave this host.

    Raises:
        BackendError: the routes could not be read.
    """
    return frozenset(each for version in (4, 6) for each in find_uplinks(version).devices)


def default_gateways() -> frozenset[bytes]:
    """Return the packed addresses of all routers in routes of this host.

    Raises:
        BackendError: the routes could not be read.
    """
    return frozenset(
        each.network.network_address.packed for each in used_networks() if each.what == ROUTER
    )


def _ask(control: socket.socket, request: int, name: str, fmt: str) -> int:
    answer = fcntl.ioctl(control, request, struct.pack("16s24x", name.encode()))
    (value,) = struct.unpack_from(fmt, answer, 16)
    return int(value)
