"""Abort connections that went through a circuit before they go on without it.

Linux checks an IPv6 source address when a socket is bound to it, and never again: a socket that
is connected from an inner address sends from it also when this host has it no more, by whichever
route leads to its destination. Over IPv4 it gets an error. So the end of a guard is the end of
these sockets, as ``ss --kill`` would do it: programs see ECONNABORTED.

Format: Linux uapi ``linux/inet_diag.h``::

    request   family (1) protocol (1) extensions (1) 0 (1) states (4) | inet_diag_sockid
    answer    family (1) state (1) timer (1) retransmissions (1)      | inet_diag_sockid ...
    inet_diag_sockid (48)   ports (2, 2) source (16) destination (16) interface (4) cookie (8)
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Iterator
from typing import Final

from overlay.addresses import IpNetwork
from overlay.apm.inner_addresses import is_inner_address
from overlay.system.local_address import own_addresses
from overlay.system.netlink_messages import (
    ACKNOWLEDGE,
    DUMP,
    acknowledged_error,
    answers,
    message,
)

__all__ = ["abort_orphaned_sockets"]

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


def abort_orphaned_sockets(prefix: IpNetwork) -> bool:
    """Abort IPv6 connections to a prefix from inner addresses that this host does not have.

    Returns:
        Whether none is left; False if this kernel (``CONFIG_INET_DIAG_DESTROY``) or our
        rights cannot do it.

    Raises:
        BackendError: the kernel does not tell this host's addresses.
    """
    if prefix.version == 4:
        return True
    own = own_addresses()
    failed = sum(not _abort(protocol, prefix, own) for protocol in (_TCP, _UDP))
    return not failed


def _abort(protocol: int, prefix: IpNetwork, own: frozenset[bytes]) -> bool:
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as netlink:
            netlink.settimeout(_TIMEOUT_S)
            netlink.bind((0, 0))
            orphans = [each for each in _found(netlink, protocol) if _is_orphan(each, prefix, own)]
            left = sum(not _destroyed(netlink, protocol, each) for each in orphans)
    except OSError:
        return False
    return not left


def _found(netlink: socket.socket, protocol: int) -> Iterator[bytes]:
    """Yield the identity of each IPv6 socket of a protocol."""
    netlink.send(message(_BY_FAMILY, DUMP, _request(protocol, bytes(_SOCKET_ID_BYTES))))
    for body in answers(netlink):
        yield body[_ANSWER_HEAD_BYTES : _ANSWER_HEAD_BYTES + _SOCKET_ID_BYTES]


def _is_orphan(identity: bytes, prefix: IpNetwork, own: frozenset[bytes]) -> bool:
    source = identity[_SOURCE]
    towards = ipaddress.ip_address(identity[_DESTINATION])
    return towards in prefix and source not in own and is_inner_address(source)


def _destroyed(netlink: socket.socket, protocol: int, identity: bytes) -> bool:
    """Abort one; one that has ended meanwhile is no failure."""
    netlink.send(message(_DESTROY, ACKNOWLEDGE, _request(protocol, identity)))
    return acknowledged_error(netlink) in (0, errno.ENOENT)


def _request(protocol: int, identity: bytes) -> bytes:
    return _REQUEST.pack(socket.AF_INET6, protocol, 0, 0, _EVERY_STATE) + identity
