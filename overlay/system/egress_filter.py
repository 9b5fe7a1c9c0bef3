"""Install egress programs of traffic control on every device, besides packet filter and routes.

Changes to nftables, iptables, routes or rules by other programs do not affect them, and they
remain after the process ends. Every packet passes them, whatever its route. This includes packets
from raw sockets, from sockets that are bound to a device, and from sockets that kept an old route.
Each owner has a separate priority, so that owners do not change each other's programs::

    routing ──> packet filter ──> IPsec ──> [program of each owner] ──> device

The queueing discipline ``clsact`` holds the programs. It is added if it is missing, and it is not
removed while another program uses it. Formats: Linux uapi ``rtnetlink.h`` (tcmsg), ``pkt_cls.h``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from overlay.errors import BackendError
from overlay.system.egress_program import compile_egress, may_accept
from overlay.system.failures import refused
from overlay.system.netlink_messages import (
    ACKNOWLEDGE,
    DUMP,
    acknowledged_error,
    answers,
    attribute,
    attributes,
    message,
    nested,
)
from overlay.system.tun import MIN_MTU, TunDevice

__all__ = ["MAX_PRIORITY", "EgressFilter", "EgressOutcome", "try_egress"]

_NEW_QDISC, _DELETE_QDISC = 36, 37
_NEW_FILTER, _DELETE_FILTER, _GET_FILTER = 44, 45, 46
_CREATE: Final = 0x400
_TCMSG: Final = struct.Struct("=BxxxiIII")  # family, device, handle, parent, info
_CLSACT_HANDLE: Final = 0xFFFF0000
_CLSACT_PARENT: Final = 0xFFFFFFF1
_INGRESS: Final = 0xFFFFFFF2
_EGRESS: Final = 0xFFFFFFF3
_EVERY_PROTOCOL: Final = socket.htons(3)

_TCA_KIND, _TCA_OPTIONS = 1, 2
_BPF_OPS_LEN, _BPF_OPS, _BPF_FLAGS = 4, 5, 8
_DIRECT_ACTION: Final = struct.pack("=I", 1)
_INSTRUCTION_BYTES: Final = 8
MAX_PRIORITY: Final = 0xBFFF
"""The kernel assigns priorities from 0xC000 downwards to filters without one; ours come first."""

_GONE: Final = frozenset((errno.ENODEV, errno.ENOENT, errno.EINVAL))
"""Errors of a removal if the device, its discipline or its filter does not exist."""

_TRIAL_DEVICE: Final = "anontry%d"
_TRIAL_PRIORITY: Final = 0x6D74

Programs = tuple[bytes, ...]
"""The programs of one device, in order; see ``overlay.system.egress_program``."""


@dataclass(frozen=True, slots=True)
class EgressOutcome:
    """The result of setting programs.

    Attributes:
        changed: number of devices that had other programs, or none.
        lost: number of devices that had lost the programs of an earlier call.
        held: number of devices that have programs now.
        refused: the error of each device that refused its programs, by name.
    """

    changed: int = 0
    lost: int = 0
    held: int = 0
    refused: Mapping[str, BackendError] = field(default_factory=dict)


class EgressFilter:
    """The programs of one owner on all devices of this network namespace except ``lo``.

    Every call reads the programs in the kernel. Only the programs of the last call are remembered.
    """

    def __init__(self, priority: int) -> None:
        """Choose the owner's priority, from 1 to 0xBFFF; lower ones run first."""
        if not 0 < priority <= MAX_PRIORITY:
            raise ValueError(f"an egress priority must be from 1 to {MAX_PRIORITY}.")
        self._priority = priority
        self._given: dict[int, Programs] = {}

    def enforce(self, programs_of: Callable[[str], Programs]) -> EgressOutcome:
        """Give every device the programs that ``programs_of`` returns for its name.

        If a device refuses, the other devices still get their programs.

        Raises:
            BackendError: no request was sent, or the devices could not be listed.
        """
        changed = lost = 0
        refusals: dict[str, BackendError] = {}
        given: dict[int, Programs] = {}
        with _translated("setting the egress filter"), _route_socket() as netlink:
            for index, name in _devices():
                programs, before = programs_of(name), self._given.get(index)
                try:
                    found = self._installed(netlink, index)
                    lost += before is not None and found != _numbered(before)
                    changed += self._enforce_at(netlink, index, found, programs)
                except OSError as error:
                    if error.errno != errno.ENODEV:  # else the device was deleted meanwhile
                        refusals[name] = refused("setting the egress filter", error)
                else:
                    given[index] = programs
        self._given = given
        return EgressOutcome(changed, lost, sum(map(bool, given.values())), refusals)

    def missing(self, programs_of: Callable[[str], Programs]) -> tuple[str, ...]:
        """Return the names of devices whose programs differ; nothing is changed.

        Raises:
            BackendError: the programs could not be read.
        """
        with _translated("reading the egress filter"), _route_socket() as netlink:
            return tuple(
                name
                for index, name in _devices()
                if self._installed(netlink, index) != _numbered(programs_of(name))
            )

    def preceded(self) -> tuple[str, ...]:
        """Return the names of devices on which another owner's filter may decide before ours.

        Raises:
            BackendError: the filters could not be read.
        """
        with _translated("reading the egress filter"), _route_socket() as netlink:
            return tuple(
                name
                for index, name in _devices()
                if any(
                    handle and priority < self._priority and _may_accept(options)
                    for handle, priority, options in _filters(netlink, index, _EGRESS)
                )
            )

    def remove(self) -> None:
        """Remove the owner's programs from all devices, and disciplines that hold no others.

        Raises:
            BackendError: the kernel refused.
        """
        for refusal in self.enforce(lambda _: ()).refused.values():
            raise refusal

    def _enforce_at(
        self,
        netlink: socket.socket,
        index: int,
        found: Mapping[int, bytes],
        programs: Programs,
    ) -> bool:
        wanted = _numbered(programs)
        if found == wanted:
            return False
        if wanted:
            _add_discipline(netlink, index)
        for handle, program in wanted.items():
            if found.get(handle) != program:
                self._put(netlink, index, handle, program)
        for handle in found.keys() - wanted.keys():
            request = self._filter_message(index, handle) + attribute(_TCA_KIND, b"bpf\0")
            _change(netlink, _DELETE_FILTER, 0, request, absent_is_fine=True)
        if not wanted:
            _remove_idle_discipline(netlink, index)
        return True

    def _put(self, netlink: socket.socket, index: int, handle: int, program: bytes) -> None:
        count = len(program) // _INSTRUCTION_BYTES
        options = (
            attribute(_BPF_OPS_LEN, struct.pack("=H", count))
            + attribute(_BPF_OPS, program)
            + attribute(_BPF_FLAGS, _DIRECT_ACTION)
        )
        body = self._filter_message(index, handle) + attribute(_TCA_KIND, b"bpf\0")
        _change(netlink, _NEW_FILTER, _CREATE, body + nested(_TCA_OPTIONS, options))

    def _installed(self, netlink: socket.socket, index: int) -> dict[int, bytes]:
        """Return the owner's programs on a device by handle; empty bytes for another kind."""
        found: dict[int, bytes] = {}
        for handle, priority, options in _filters(netlink, index, _EGRESS):
            if priority == self._priority and handle:
                direct = options.get(_BPF_FLAGS) == _DIRECT_ACTION
                found[handle] = options.get(_BPF_OPS, b"") if direct else b""
        return found

    def _filter_message(self, index: int, handle: int) -> bytes:
        info = self._priority << 16 | _EVERY_PROTOCOL
        return _TCMSG.pack(0, index, handle, _EGRESS, info)


def try_egress() -> None:
    """Install a program that drops nothing on a new device, and remove both.

    Raises:
        BackendError: no permission, or a kernel without sch_ingress or cls_bpf.
    """
    with TunDevice.open(_TRIAL_DEVICE, MIN_MTU) as device:
        nothing = compile_egress((), ())
        trial = EgressFilter(_TRIAL_PRIORITY)
        outcome = trial.enforce(lambda name: (nothing,) if name == device.name else ())
    for refusal in outcome.refused.values():
        raise refusal


def _may_accept(options: Mapping[int, bytes]) -> bool:
    """Tell whether a filter may do more than drop a packet or let the next filter decide."""
    return may_accept(options.get(_BPF_OPS, b"")) or options.get(_BPF_FLAGS) != _DIRECT_ACTION


def _numbered(programs: Programs) -> dict[int, bytes]:
    """Return programs by their handles."""
    return dict(enumerate(programs, 1))


def _devices() -> list[tuple[int, str]]:
    return [(index, name) for index, name in socket.if_nameindex() if name != "lo"]


def _filters(
    netlink: socket.socket, index: int, parent: int
) -> Iterator[tuple[int, int, dict[int, bytes]]]:
    """Yield (handle, priority, options) of each filter.

    The kernel also lists each priority itself, with the handle 0.
    """
    netlink.send(message(_GET_FILTER, DUMP, _TCMSG.pack(0, index, 0, parent, 0)))
    for body in answers(netlink):
        _, _, handle, _, info = _TCMSG.unpack_from(body)
        options = attributes(body[_TCMSG.size :]).get(_TCA_OPTIONS, b"")
        yield handle, info >> 16, attributes(options)


def _add_discipline(netlink: socket.socket, index: int) -> None:
    body = _TCMSG.pack(0, index, _CLSACT_HANDLE, _CLSACT_PARENT, 0)
    body += attribute(_TCA_KIND, b"clsact\0")
    _change(netlink, _NEW_QDISC, _CREATE, body)  # no error if the discipline exists already


def _remove_idle_discipline(netlink: socket.socket, index: int) -> None:
    if any(True for parent in (_INGRESS, _EGRESS) for _ in list(_filters(netlink, index, parent))):
        return
    body = _TCMSG.pack(0, index, _CLSACT_HANDLE, _CLSACT_PARENT, 0)
    _change(netlink, _DELETE_QDISC, 0, body, absent_is_fine=True)


def _change(
    netlink: socket.socket, kind: int, flags: int, body: bytes, *, absent_is_fine: bool = False
) -> None:
    """Make one change.

    Raises:
        OSError: the kernel refused.
    """
    netlink.send(message(kind, flags | ACKNOWLEDGE, body))
    number = acknowledged_error(netlink)
    if number and not (absent_is_fine and number in _GONE):
        raise OSError(number, os.strerror(number))


@contextlib.contextmanager
def _translated(operation: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise refused(operation, error) from error


@contextlib.contextmanager
def _route_socket() -> Iterator[socket.socket]:
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE) as netlink:
        netlink.bind((0, 0))
        yield netlink
