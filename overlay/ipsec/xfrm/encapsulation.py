"""Have the kernel process the ESP datagrams of a UDP socket (RFC 3948).

With ``UDP_ENCAP`` set, the kernel passes each datagram of the socket to its SA. There are two
exceptions. Datagrams with the non-ESP marker (four zero bytes) stay in the socket, and a NAT
keep-alive (the single byte 0xFF) is dropped.
"""

from __future__ import annotations

import socket
from typing import Final

from overlay.ipsec.xfrm.messages import UDP_ENCAP_ESPINUDP
from overlay.system.failures import refused

__all__ = ["decapsulate_esp"]

# From Linux's uapi udp.h; the socket module lacks them.
_UDP_ENCAP: Final = 100
_UDP_GRO: Final = 104


def decapsulate_esp(bound: socket.socket) -> None:
    """Have the kernel take the ESP datagrams out of a UDP socket; the others stay.

    Aggregation (``UDP_GRO``) is switched off, because the kernel would pass several ESP packets to
    an SA as if they were one.

    Raises:
        BackendError: the kernel does not support it (IPv6 needs Linux 5.8 or later).
    """
    try:
        bound.setsockopt(socket.IPPROTO_UDP, _UDP_GRO, 0)
        bound.setsockopt(socket.IPPROTO_UDP, _UDP_ENCAP, UDP_ENCAP_ESPINUDP)
    except OSError as error:
        raise refused(
            "receiving ESP in UDP by the kernel",
            error,
            "use a kernel with CONFIG_INET_ESP and, for IPv6, of version 5.8 or later,"
            ' or set [ipsec] backend = "userspace"',
        ) from error
