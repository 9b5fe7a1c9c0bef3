"""Abort connections whose circuit has ended, as ``ss --kill`` does.

Otherwise programs would wait for a long time. Over IPv4 the kill switch drops the packets of a
socket with an inner address, and TCP retransmits for many minutes. Over IPv6 Linux checks a source
address only when the socket is bound to it. So the socket continues to send from an address that
this host has lost, over any route to its destination. An aborted socket fails with ECONNABORTED.

Format: Linux uapi ``linux/inet_diag.h``::

    request   family (1) protocol (1) extensions (1) 0 (1) states (4) | inet_diag_sockid
    answer    family (1) state (1) timer (1) retransmissions (1)      | inet_diag_sockid ...
    inet_diag_sockid (48)   ports (2, 2) source (16) destination (16) interface (4) cookie (8)

Reasons: docs/decisions/0030.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from overlay.addresses import IpAddress, IpNetwork
from overlay.apm.inner_addresses import is_inner_address
from overlay.system.local_address import own_addresses
from overlay.system.netlink_messages import (
    ACKNOWLEDGE,
    DUMP,
    acknowledged_error,
    answers,
    message,
)

__all__ = ["abort_orphaned_sockets", "abort_sockets_of"]

_NETLINK_SOCK_DIAG: Final = 4
_BY_FAMILY: Final = 20
_DESTROY: Final = 21
_TCP: Final = 6
_UDP: Final = 17
_EVERY_STATE: Final = 0xFFFFFFFF
_REQUEST: Final = struct.Struct("=BBBBI")
_ANSWER_HEAD_BYTES: Final = 4
_SOCKET_ID_BYTES: Final = 48
_SOURCE: Final = slice(4, 20)
_DESTINATION: Final = slice(20, 36)
_TIMEOUT_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class _Socket:
    """One socket, as the kernel identifies it; IPv4 addresses take 4 bytes."""

    family: int
    identity: bytes

    @property
    def source(self) -> IpAddress:
        """The local address."""
        return self._address(_SOURCE)

    @property
    def destination(self) -> IpAddress:
        """The remote address; unspecified if the socket is not connected."""
        return self._address(_DESTINATION)

    def _address(self, where: slice) -> IpAddress:
        packed = self.identity[where]
        if self.family == socket.AF_INET:
            return ipaddress.IPv4Address(packed[:4])
        address = ipaddress.IPv6Address(packed)
        return address.ipv4_mapped or address  # an IPv6 socket may use IPv4 (mapped address)


def abort_sockets_of(address: IpAddress) -> str:
    """Abort all TCP and UDP sockets with this local address.

    Returns:
        Why some are left; empty if none is. The kernel may lack ``CONFIG_INET_DIAG_DESTROY``.
    """
    return _abort(lambda each: each.source == address, address.version)


def abort_orphaned_sockets(prefix: IpNetwork) -> str:
    """Abort connections to a prefix from inner addresses that this host does not have.

    Returns:
        As :func:`abort_sockets_of`.

    Raises:
        BackendError: the addresses of this host could not be read.
    """
    own = own_addresses()

    def is_orphan(each: _Socket) -> bool:
        source, destination = each.source, each.destination
        return (
            destination.version == prefix.version
            and destination in prefix
            and source.packed not in own
            and is_inner_address(source.packed)
        )

    return _abort(is_orphan, prefix.version)


def _abort(matches: Callable[[_Socket], bool], version: int) -> str:
    """Abort matching sockets that may use this IP version; return an error, or an empty string.

    An IPv6 socket may also use IPv4 (mapped addresses).
    """
    families = (socket.AF_INET6,) if version == 6 else (socket.AF_INET, socket.AF_INET6)
    left = ""
    for family in families:
        for protocol in (_TCP, _UDP):
            try:
                left = _abort_found(matches, family, protocol) or left
            except OSError as error:
                left = error.strerror or type(error).__name__
    return left


def _abort_found(matches: Callable[[_Socket], bool], family: int, protocol: int) -> str:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(_TIMEOUT_S)
        netlink.bind((0, 0))
        found = [each for each in _found(netlink, family, protocol) if matches(each)]
        errors = [_destroyed(netlink, protocol, each) for each in found]
    # ENOENT: the socket was closed meanwhile.
    refused = [error for error in errors if error not in (0, errno.ENOENT)]
    return os.strerror(refused[0]) if refused else ""


def _found(netlink: socket.socket, family: int, protocol: int) -> Iterator[_Socket]:
    """Yield each socket of a family and a protocol."""
    request = _request(family, protocol, bytes(_SOCKET_ID_BYTES))
    netlink.send(message(_BY_FAMILY, DUMP, request))
    for body in answers(netlink):
        identity = body[_ANSWER_HEAD_BYTES : _ANSWER_HEAD_BYTES + _SOCKET_ID_BYTES]
        if len(identity) == _SOCKET_ID_BYTES:
            yield _Socket(body[0], identity)


def _destroyed(netlink: socket.socket, protocol: int, each: _Socket) -> int:
    """Abort one socket; return the kernel's errno, 0 for success."""
    netlink.send(message(_DESTROY, ACKNOWLEDGE, _request(each.family, protocol, each.identity)))
    return acknowledged_error(netlink)


def _request(family: int, protocol: int, identity: bytes) -> bytes:
    return _REQUEST.pack(family, protocol, 0, 0, _EVERY_STATE) + identity
