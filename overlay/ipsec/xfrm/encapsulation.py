"""The UDP socket's part of ESP in UDP (RFC 3948): the kernel takes the ESP out of it.

With ``UDP_ENCAP`` set, the kernel decapsulates each datagram of the socket and hands it to
the SA, unless it begins with four zero bytes (the non-ESP marker), which stays the socket's,
or is the single byte 0xFF (a NAT keepalive), which it swallows.
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
    """Let the kernel take ESP datagrams from a UDP socket; the other ones stay.

    Aggregation (``UDP_GRO``) is switched off: the kernel would hand several ESP packets to
    an SA as if they were one.

    Raises:
        BackendError: the kernel cannot (IPv6 needs Linux 5.8 or later).
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
