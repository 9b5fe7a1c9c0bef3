"""Receive packets that the packet filter refuses, so that the node can answer with ICMP errors.

The filter's rules (``Verdict.REFUSE``) copy packets that they drop to a netlink group, at a limited
rate. So the node sees only packets that are dropped. ::

    filter ──> dropped
       └─ limited rate ──> netlink group ──> :class:`RefusedPackets` ──> ICMP error

Format: Linux uapi ``linux/netfilter/nfnetlink_log.h``; each body begins with ``nfgenmsg``: family
(1) version (1) group (2, big-endian).
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

from overlay.system.failures import refused
from overlay.system.netlink_messages import (
    ACKNOWLEDGE,
    RECEIVE_BYTES,
    acknowledged_error,
    attribute,
    attributes,
    message,
    messages,
)
from overlay.system.packet_filter import REFUSED_GROUP

__all__ = ["AnswerSender", "RefusedPacket", "RefusedPackets"]

_NETLINK_NETFILTER: Final = 12
_LOG_PACKET: Final = 4 << 8
_LOG_CONFIG: Final = 4 << 8 | 1
_CONFIG_COMMAND: Final = 1
_BIND: Final = 1
_CONFIG_MODE: Final = 2
_COPY_PACKET: Final = 2
_CONFIG_THRESHOLD: Final = 5
_PACKET_HEAD: Final = 1
_HOOK: Final = 2
"""Offset of the hook in NFULA_PACKET_HDR, after the link layer's protocol (2)."""
_LOCAL_OUT: Final = 3
"""NF_INET_LOCAL_OUT (Linux uapi ``linux/netfilter.h``)."""

_PAYLOAD: Final = 9
_GENERIC: Final = struct.Struct("!BBH")

_COPIED_BYTES: Final = 65_535
"""Copy whole packets, because a packet whose size differs from its header is not answered."""

_READS: Final = 32
"""Limit of messages per read, so that other tasks can run."""


@dataclass(frozen=True, slots=True)
class RefusedPacket:
    """A whole packet; ``own`` is set if a program of this host sent it."""

    packet: bytes
    own: bool


class RefusedPackets:
    """A subscription to refused packets in this network namespace; a context manager.

    ``fileno()`` is for waiting until it is readable; :meth:`read` never waits.
    """

    def __init__(self, group: int = REFUSED_GROUP) -> None:
        """Subscribe.

        Raises:
            BackendError: the kernel does not support it, a permission is missing, or another
                program uses the group.
        """
        operation = "asking the kernel for packets that the packet filter refuses"
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        try:
            self._socket = socket.socket(socket.AF_NETLINK, kind, _NETLINK_NETFILTER)
        except OSError as error:
            raise refused(operation, error) from error
        try:
            self._socket.bind((0, 0))
            mode = struct.pack("!IBB", _COPIED_BYTES, _COPY_PACKET, 0)
            for body in (
                attribute(_CONFIG_COMMAND, bytes((_BIND,))),
                attribute(_CONFIG_MODE, mode),
                attribute(_CONFIG_THRESHOLD, struct.pack("!I", 1)),  # send each one at once
            ):
                head = _GENERIC.pack(socket.AF_UNSPEC, 0, group)
                self._socket.send(message(_LOG_CONFIG, ACKNOWLEDGE, head + body))
                self._check_acknowledged()
            self._socket.settimeout(0)
        except OSError as error:
            self._socket.close()
            raise refused(operation, error) from error

    def _check_acknowledged(self) -> None:
        number = acknowledged_error(self._socket)
        if number:
            raise OSError(number, "the kernel refused")

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._socket.fileno()

    def read(self) -> list[RefusedPacket]:
        """Return the packets of up to 32 messages that have arrived, in order."""
        found: list[RefusedPacket] = []
        for _ in range(_READS):
            try:
                data = self._socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # ENOBUFS: some packets were lost
                    raise refused("reading refused packets", error) from error
                continue
            found += _packets(data)
        return found

    def close(self) -> None:
        """End the subscription."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _packets(data: bytes) -> Iterable[RefusedPacket]:
    for kind, body in messages(data):
        if kind != _LOG_PACKET:
            continue
        told = attributes(body[_GENERIC.size :])
        packet, head = told.get(_PAYLOAD, b""), told.get(_PACKET_HEAD, b"")
        if packet and len(head) > _HOOK:
            yield RefusedPacket(packet, own=head[_HOOK] == _LOCAL_OUT)


class AnswerSender:
    """Sends whole IP packets with any source address; a context manager."""

    def __init__(self) -> None:
        """Open one socket for each IP version that the host supports.

        Raises:
            BackendError: a permission is missing.
        """
        self._sockets: dict[int, socket.socket] = {}
        for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
            try:
                kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
                self._sockets[version] = socket.socket(family, kind, socket.IPPROTO_RAW)
            except OSError as error:
                if error.errno == errno.EAFNOSUPPORT:
                    continue
                self.close()
                raise refused("opening a socket for ICMP errors", error) from error
            self._sockets[version].settimeout(0)

    def send(self, packets: Iterable[bytes]) -> int:
        """Send packets without waiting; return how many were sent."""
        count = 0
        for packet in packets:
            version = packet[0] >> 4
            destination = packet[16:20] if version == 4 else packet[24:40]
            if version not in self._sockets:
                continue
            with contextlib.suppress(OSError):  # the route is gone, or the buffer is full
                host = str(ipaddress.ip_address(destination))
                self._sockets[version].sendto(packet, (host, 0))
                count += 1
        return count

    def close(self) -> None:
        """Close the sockets."""
        for each in self._sockets.values():
            each.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
