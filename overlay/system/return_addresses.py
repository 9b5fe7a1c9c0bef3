"""Which of a host's addresses a datagram leaves from: the one that its receiver wrote to.

A socket that is bound to a wildcard sends from the address that the route prefers. A peer that
wrote to another address of this host drops such an answer, and so does its NAT. The kernel
tells to which address a datagram came, and takes an address to send from (IP_PKTINFO in ip(7),
IPV6_RECVPKTINFO in RFC 3542)::

    datagram + address it came to ──learn──> peer: address ──control──> answer

A host with one address needs none of it, and its sockets are not asked for it.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Collection
from typing import Final

from overlay.addresses import Endpoint

__all__ = ["Control", "ReturnAddresses"]

_IP_PKTINFO: Final = 8
_IPV6_RECVPKTINFO: Final = 49
_IPV6_PKTINFO: Final = 50
_INFO4: Final = struct.Struct("=i4s4s")  # struct in_pktinfo: device, local address, destination
_INFO6: Final = struct.Struct("=16si")  # struct in6_pktinfo: address, device

_MAX_PEERS: Final = 8192
"""Peers that wrote to another address than the usual one; the first learned is forgotten first."""

Control = list[tuple[int, int, bytes]]
"""Ancillary data of one sendmsg(2)."""


class ReturnAddresses:
    """Own addresses by peer, for all sockets of one IP version; shared by a port's two queues.

    ``in_use`` tells whether this host has several addresses, so that it matters.
    """

    def __init__(self, version: int) -> None:
        self.version = version
        self.in_use = False
        self._usual: bytes | None = None
        self._asked: dict[Endpoint, bytes] = {}
        self._controls: dict[bytes, Control] = {}

    def follow(self, own: Collection[bytes], usual: bytes | None) -> None:
        """Take the packed addresses of this host of this version.

        ``usual`` is the one to use for peers that have not written yet; None leaves it to the
        routes.
        """
        self.in_use = len(own) > 1
        self._usual = usual if usual in own else None
        self._asked = {peer: local for peer, local in self._asked.items() if local in own}
        self._controls = {each: _control(each) for each in own} if self.in_use else {}

    def apply(self, to: socket.socket) -> None:
        """Ask the kernel for the address of each datagram, or no longer, as ``in_use`` says."""
        wanted = int(self.in_use)
        if self.version == 4:
            to.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, wanted)
        else:
            to.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, wanted)

    def learn(self, peer: Endpoint, local: bytes) -> None:
        """Note that ``peer`` wrote to the packed address ``local`` of this host."""
        asked = self._asked
        if asked.get(peer, self._usual) == local or local not in self._controls:
            return
        if local == self._usual:
            del asked[peer]
            return
        if len(asked) >= _MAX_PEERS:
            del asked[next(iter(asked))]
        asked[peer] = local

    def forget(self, peer: Endpoint) -> None:
        """Leave it to the routes how this peer is reached."""
        self._asked.pop(peer, None)

    def towards(self, peer: Endpoint) -> bytes | None:
        """Return the packed address for datagrams to ``peer``, None if the routes decide."""
        return self._asked.get(peer, self._usual) if self.in_use else None

    def control(self, peer: Endpoint) -> Control:
        """Return the ancillary data that makes a datagram leave from the right address."""
        local = self._asked.get(peer, self._usual)
        return self._controls.get(local, []) if local is not None else []


def _control(local: bytes) -> Control:
    if len(local) == 4:
        return [(socket.IPPROTO_IP, _IP_PKTINFO, _INFO4.pack(0, local, bytes(4)))]
    return [(socket.IPPROTO_IPV6, _IPV6_PKTINFO, _INFO6.pack(local, 0))]
