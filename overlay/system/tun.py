"""A TUN device: exchange of plain IP packets with the kernel, at the source and at the exit.

The device is not persistent. It disappears with the last descriptor of the process, even after
``kill -9``, together with its addresses and routes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

import trio

from overlay.errors import BackendError
from overlay.offload.virtio import HEADER_BYTES, described, received
from overlay.system.failures import privilege_remedy, refused

__all__ = [
    "CLONE_DEVICE",
    "MAX_NAME_BYTES",
    "MIN_MTU",
    "TunDevice",
    "claim_device_name",
    "keeps_device_name",
]

MIN_MTU: Final = 1280
"""Lowest MTU in bytes; with a lower one Linux removes IPv6 from the device (RFC 8200, section 5).

Routes may have a lower MTU.
"""

MAX_NAME_BYTES: Final = 15
"""Limit of a device's name, without the terminating zero (IFNAMSIZ in Linux's if.h is 16)."""

_MAX_MTU: Final = 65_535
CLONE_DEVICE: Final = Path("/dev/net/tun")
"""The device to open for a new TUN device (Linux, Documentation/networking/tuntap)."""

# From Linux's if_tun.h and sockios.h.
_TUNSETIFF: Final = 0x400454CA
_TUNGETIFF: Final = 0x800454D2
_IFF_TUN: Final = 0x0001
_IFF_NO_PI: Final = 0x1000
_IFF_TUN_EXCL: Final = 0x8000
_IFREQ_BYTES: Final = 40
_IFF_VNET_HDR: Final = 0x4000
_TUNSETOFFLOAD: Final = 0x400454D0
_OFFLOADS: Final = (0x01 | 0x02 | 0x04 | 0x20 | 0x40, 0x01 | 0x02 | 0x04)
"""TUN_F_CSUM, TUN_F_TSO4 and TUN_F_TSO6; first with TUN_F_USO4 and TUN_F_USO6 (Linux 6.2)."""
_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_SIOCSIFMTU: Final = 0x8922
_IFF_UP: Final = 0x0001

_PACKETS_PER_BATCH: Final = 256

_BYTES_PER_BATCH: Final = 262_144
"""Ends a batch of super-packets early, because one stands for up to 63 segments."""

_QUIET_IPV6: Final = (
    ("addr_gen_mode", 1),  # no link-local address, so nothing to announce
    ("accept_ra", 0),
    ("autoconf", 0),
    ("router_solicitations", 0),
    ("accept_redirects", 0),
)


class TunDevice:
    """One TUN device of plain IP packets (no packet information header); a context manager.

    ``counters``: ``read``, ``written``, ``dropped_noise`` (multicast packets of the kernel, such
    as MLD) and ``dropped_write`` (packets that the kernel did not accept).

    With ``segment_bytes``, the device exchanges TCP super-packets of segments of this size with the
    kernel (:mod:`overlay.offload`), and computes the checksums that the kernel leaves to it.
    """

    def __init__(
        self, descriptor: int, name: str, mtu: int, segment_bytes: int | None = None
    ) -> None:
        """Take over an attached descriptor; callers want :meth:`open`."""
        self._descriptor = descriptor
        self.name = name
        self.mtu = mtu
        self.segment_bytes = segment_bytes
        self._buffer = memoryview(bytearray(HEADER_BYTES + _MAX_MTU))
        self._index = _index_of(name)
        self.counters: Counter[str] = Counter()

    @classmethod
    def open(cls, name: str, mtu: int, segment_bytes: int | None = None) -> Self:
        """Create a device, disable its own IPv6 packets, and set it up.

        Args:
            name: its name, or a template: ``anon%d`` gives the first free ``anonN``.
            mtu: size in bytes of the largest IP packet, from 1280 to 65535.
            segment_bytes: size of a TCP segment, IP header included, for which the device
                exchanges super-packets; None for a device without offload. A kernel that refuses
                the offload gets a device without it.

        Raises:
            ValueError: the MTU is out of range, or the name is longer than 15 bytes.
            BackendError: /dev/net/tun or a permission is missing, or the name is taken.
        """
        if not MIN_MTU <= mtu <= _MAX_MTU:
            raise ValueError(f"a TUN device's MTU must be from {MIN_MTU} to {_MAX_MTU}, not {mtu}.")
        if not 0 < len(name.encode()) <= MAX_NAME_BYTES:
            raise ValueError(f"a device's name has 1 to 15 bytes, which {name!r} has not.")
        descriptor = _open_clone_device()
        try:
            offloads = segment_bytes is not None
            actual = _attached(descriptor, name, _IFF_VNET_HDR if offloads else 0)
            if offloads:
                _offer_offload(descriptor)
            _quieten(actual)
            _set_up(actual, mtu)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor, actual, mtu, segment_bytes)

    @property
    def index(self) -> int:
        """The kernel's number of the device."""
        return socket.if_nametoindex(self.name)

    @property
    def in_place(self) -> bool:
        """Whether the device still has its name in this network namespace."""
        return self._index is not None and _index_of(self.name) == self._index

    def is_up(self) -> bool:
        """Tell whether a device of this name exists and is up."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            try:
                return bool(_flags(control, self.name) & _IFF_UP)
            except OSError:
                return False

    def set_up(self) -> None:
        """Set the device up again after another program set it down.

        Raises:
            BackendError: the kernel refused.
        """
        _set_up(self.name, self.mtu)

    def fileno(self) -> int:
        """Return the descriptor to wait on, -1 after :meth:`close`."""
        return self._descriptor

    async def read_batch(self) -> list[bytes]:
        """Wait until packets arrive, then return up to 256 of them.

        Multicast packets are left out. They come from the kernel itself; circuits do not carry
        multicast.

        Raises:
            BackendError: another program removed the device.
            trio.ClosedResourceError: the device was closed.
        """
        if self._descriptor < 0:
            raise trio.ClosedResourceError
        await trio.lowlevel.wait_readable(self._descriptor)
        packets: list[bytes] = []
        room = _BYTES_PER_BATCH
        for _ in range(_PACKETS_PER_BATCH):
            arrived = self._read()
            if arrived is None:
                break
            packets.extend(arrived)
            room -= sum(map(len, arrived))
            if room <= 0:
                break
        wanted = [packet for packet in packets if not _is_multicast(packet)]
        self.counters["dropped_noise"] += len(packets) - len(wanted)
        self.counters["read"] += len(wanted)
        return wanted

    def write_batch(self, packets: Sequence[bytes]) -> None:
        """Pass packets to the kernel without waiting; those that it does not accept are counted."""
        descriptor, dropped, segment_bytes = self._descriptor, 0, self.segment_bytes
        for packet in packets:
            try:
                if segment_bytes is None:
                    os.write(descriptor, packet)
                else:
                    os.writev(descriptor, described(packet, segment_bytes))
            except OSError:
                dropped += 1
        self.counters["written"] += len(packets) - dropped
        self.counters["dropped_write"] += dropped

    def close(self) -> None:
        """Remove the device; a task that waits in :meth:`read_batch` is woken."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with contextlib.suppress(RuntimeError):  # outside trio no task waits
                trio.lowlevel.notify_closing(descriptor)
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> list[bytes] | None:
        """Return the packets of one frame, None if none waits."""
        buffer, segment_bytes = self._buffer, self.segment_bytes
        try:
            size = os.readv(self._descriptor, (buffer,))
        except BlockingIOError:
            return None
        except OSError as error:
            raise refused(
                f"reading the TUN device {self.name}",
                error,
                "the device was removed or set down, so restart the node",
            ) from error
        if segment_bytes is None:
            return [bytes(buffer[:size])]
        return received(buffer[:size], segment_bytes)


def _index_of(name: str) -> int | None:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return None


def _is_multicast(packet: bytes) -> bool:
    """Tell whether the destination is multicast or broadcast (224.0.0.0/3, ff00::/8)."""
    if packet[0] >> 4 == 4:
        return len(packet) < 20 or packet[16] >= 224
    return len(packet) < 40 or packet[24] == 0xFF


def _open_clone_device() -> int:
    try:
        return os.open(CLONE_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        remedy = "load the kernel's driver with `modprobe tun`, or pass the device to the container"
        raise refused(f"opening {CLONE_DEVICE}", error, remedy) from error
    except PermissionError as error:
        remedy = f"run as root, or allow it with `chmod 0666 {CLONE_DEVICE}`"
        raise refused(f"opening {CLONE_DEVICE}", error, remedy) from error
    except OSError as error:
        remedy = "load the kernel's driver with `modprobe tun`"
        raise refused(f"opening {CLONE_DEVICE}", error, remedy) from error


def claim_device_name(name: str) -> int | None:
    """Create a device that stays down, and return the descriptor that keeps it.

    Returns:
        The descriptor, or None if a device of that name exists already.

    Raises:
        BackendError: /dev/net/tun or a permission is missing.
    """
    descriptor = _open_clone_device()
    try:
        _attach(descriptor, name, _IFF_TUN | _IFF_NO_PI | _IFF_TUN_EXCL)
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.EBUSY, errno.EEXIST):
            return None
        raise refused(f"claiming the device name {name}", error) from error
    return descriptor


def keeps_device_name(descriptor: int, name: str) -> bool:
    """Tell whether the descriptor still keeps the device, under this name and in this namespace."""
    try:
        answer = fcntl.ioctl(descriptor, _TUNGETIFF, bytes(_IFREQ_BYTES))
        socket.if_nametoindex(name)
    except OSError:  # EBADFD: the device was deleted
        return False
    return answer[:16].rstrip(b"\0").decode() == name


def _attached(descriptor: int, name: str, more_flags: int) -> str:
    try:
        return _attach(descriptor, name, _IFF_TUN | _IFF_NO_PI | more_flags)
    except OSError as error:
        raise _attach_error(name, error) from error


def _attach(descriptor: int, name: str, flags: int) -> str:
    answer = fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    return answer[:16].rstrip(b"\0").decode()


def _offer_offload(descriptor: int) -> None:
    """Let the kernel hand over super-packets; without it, each frame is one packet."""
    for offloads in _OFFLOADS:
        with contextlib.suppress(OSError):
            fcntl.ioctl(descriptor, _TUNSETOFFLOAD, offloads)
            return


def _attach_error(name: str, error: OSError) -> BackendError:
    if error.errno == errno.EBUSY:
        remedy = "another process uses a device of this name, so stop it or set another name"
    elif error.errno in (errno.EPERM, errno.EACCES):
        remedy = privilege_remedy()
    else:
        remedy = "report it, since a node chooses the name itself"
    return refused(f"creating the TUN device {name}", error, remedy)


def _quieten(name: str) -> None:
    """Keep the kernel from sending IPv6 packets of its own on the device.

    If the settings are read-only, :meth:`TunDevice.read_batch` drops these packets.
    """
    for setting, value in _QUIET_IPV6:
        with contextlib.suppress(OSError):
            Path("/proc/sys/net/ipv6/conf", name, setting).write_text(str(value))


def _set_up(name: str, mtu: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        try:
            fcntl.ioctl(control, _SIOCSIFMTU, struct.pack("16si20x", name.encode(), mtu))
            flags = _flags(control, name)
            fcntl.ioctl(
                control, _SIOCSIFFLAGS, struct.pack("16sH22x", name.encode(), flags | _IFF_UP)
            )
        except OSError as error:
            raise refused(f"setting up the TUN device {name}", error) from error


def _flags(control: socket.socket, name: str) -> int:
    request = struct.pack("16sH22x", name.encode(), 0)
    (flags,) = struct.unpack_from("H", fcntl.ioctl(control, _SIOCGIFFLAGS, request), 16)
    return int(flags)
