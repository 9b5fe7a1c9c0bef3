"""Install rules of traffic control (tc) on devices, below the packet filter.

Ingress rules process packets before any hook of the packet filter, including packets that IPsec has
decrypted. Egress rules process packets after the last hook. Rules of other programs are kept.

Formats: Linux uapi ``linux/rtnetlink.h`` (tcmsg) and ``linux/pkt_sched.h`` (clsact).
"""

from __future__ import annotations

import enum
import errno
import os
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

from overlay.errors import BackendError
from overlay.system.failures import privilege_remedy, refused
from overlay.system.netlink_messages import (
    ACKNOWLEDGE,
    DUMP,
    acknowledged_error,
    answers,
    attribute,
    message,
    nested,
)

__all__ = ["GO_ON", "TrafficControl", "TrafficDirection", "TrafficRule", "indexes"]

GO_ON: Final = -1
"""TC_ACT_UNSPEC, an action: the next filter decides, even one of another program."""

_RTM_NEWQDISC: Final = 36
_RTM_DELQDISC: Final = 37
_RTM_NEWTFILTER: Final = 44
_RTM_DELTFILTER: Final = 45
_RTM_GETTFILTER: Final = 46
_CREATE: Final = 0x400
_EXCLUSIVE: Final = 0x200

_TCMSG: Final = struct.Struct("=BxHiIII")
"""Family, device, handle, parent, and preference and protocol."""

_CLSACT: Final = 0xFFFFFFF1
_CLSACT_HANDLE: Final = 0xFFFF0000
_TCA_KIND: Final = 1
_TCA_OPTIONS: Final = 2

_ABSENT: Final = frozenset((errno.ENOENT, errno.ENODEV, errno.EINVAL))


class TrafficDirection(enum.Enum):
    """The direction of packets through the device; the value is the parent of the filter."""

    INGRESS = 0xFFFFFFF2
    EGRESS = 0xFFFFFFF3


@dataclass(frozen=True, slots=True)
class TrafficRule:
    """A filter of kind ``kind`` for packets of an EtherType.

    ``preference`` (1 to 65,535) identifies it on a device and direction. ``options`` are the
    attributes inside TCA_OPTIONS. ``needs`` names the kernel modules that it requires.
    """

    preference: int
    direction: TrafficDirection
    protocol: int
    kind: str
    options: bytes
    needs: str


class TrafficControl:
    """A netlink socket of this network namespace; a context manager. All changes are idempotent."""

    def __init__(self) -> None:
        """Open the socket.

        Raises:
            BackendError: the kernel refused.
        """
        try:
            self._netlink = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
            )
        except OSError as error:
            raise refused("opening a netlink socket", error) from error

    def close(self) -> None:
        """Close the socket; installed rules stay."""
        self._netlink.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def put(self, device: int, rule: TrafficRule) -> None:
        """Install a rule on a device (by index); it replaces the one with the same preference.

        Raises:
            BackendError: a permission is missing, or the kernel lacks a module.
        """
        head = _TCMSG.pack(0, 0, device, _CLSACT_HANDLE, _CLSACT, 0)
        number = self._ask(
            _RTM_NEWQDISC, _CREATE | _EXCLUSIVE, head + attribute(_TCA_KIND, b"clsact\0")
        )
        # EEXIST: an ingress or clsact discipline of another program can hold our filters as well.
        if number not in (0, errno.EEXIST, errno.ENODEV):
            raise _refused(number, rule.needs)
        if rule.preference in self.preferences(device, rule.direction):
            self.remove(device, rule)
        body = (
            _place(device, rule)
            + attribute(_TCA_KIND, rule.kind.encode() + b"\0")
            + nested(_TCA_OPTIONS, rule.options)
        )
        number = self._ask(_RTM_NEWTFILTER, _CREATE | _EXCLUSIVE, body)
        if number not in (0, errno.ENODEV):
            raise _refused(number, rule.needs)

    def remove(self, device: int, rule: TrafficRule) -> None:
        """Remove the filter with the rule's direction, preference and protocol; it need not exist.

        Raises:
            BackendError: no permission.
        """
        number = self._ask(_RTM_DELTFILTER, 0, _place(device, rule))
        if number and number not in _ABSENT:
            raise _refused(number, rule.needs)

    def remove_everywhere(self, rule: TrafficRule) -> None:
        """Remove the rule from all devices, and clsact disciplines that have no filter left.

        Raises:
            BackendError: no permission.
        """
        for device in indexes(()).values():
            if rule.preference in self.preferences(device, rule.direction):
                self.remove(device, rule)
                if not any(self.preferences(device, each) for each in TrafficDirection):
                    head = _TCMSG.pack(0, 0, device, _CLSACT_HANDLE, _CLSACT, 0)
                    self._ask(_RTM_DELQDISC, 0, head)

    def preferences(self, device: int, direction: TrafficDirection) -> frozenset[int]:
        """Return the preferences of all filters of a device, including those of other programs."""
        head = _TCMSG.pack(0, 0, device, 0, direction.value, 0)
        try:
            self._netlink.send(message(_RTM_GETTFILTER, DUMP, head))
            bodies = list(answers(self._netlink))
        except OSError:  # the device was deleted
            return frozenset()
        found = [_TCMSG.unpack_from(body) for body in bodies if len(body) >= _TCMSG.size]
        return frozenset(info >> 16 for *_, parent, info in found if parent == direction.value)

    def _ask(self, kind: int, flags: int, body: bytes) -> int:
        try:
            self._netlink.send(message(kind, flags | ACKNOWLEDGE, body))
            return acknowledged_error(self._netlink)
        except OSError as error:
            raise refused("changing traffic control", error, privilege_remedy()) from error


def indexes(excluded: Iterable[str]) -> dict[str, int]:
    """Return name and index of every device except loopback and the excluded ones.

    An excluded name that ends with ``*`` matches a prefix.
    """
    names = ("lo", *excluded)
    begins = tuple(each[:-1] for each in names if each.endswith("*"))
    return {
        name: index
        for index, name in socket.if_nameindex()
        if name not in names and not (begins and name.startswith(begins))
    }


def _place(device: int, rule: TrafficRule) -> bytes:
    protocol = socket.htons(rule.protocol)
    return _TCMSG.pack(0, 0, device, 0, rule.direction.value, rule.preference << 16 | protocol)


def _refused(number: int, needs: str) -> BackendError:
    if number in (errno.EPERM, errno.EACCES):
        remedy = privilege_remedy()
    else:
        remedy = f"use a kernel with the modules {needs}"
    return refused("changing traffic control", OSError(number, os.strerror(number)), remedy)
