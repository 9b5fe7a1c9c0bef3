"""Choose the source address of a datagram: the one to which its receiver wrote before.

A socket that is bound to a wildcard sends from the address that the route prefers. If a peer wrote
to another address of this host, the peer or its NAT drops such an answer. The kernel reports the
destination address of each datagram, and accepts a source address for sending (IP_PKTINFO in ip(7),
IPV6_RECVPKTINFO in RFC 3542)::

    datagram + its destination address ──learn──> peer: address ──control──> answer

If a host has only one address, these socket options are not used.
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
"""Limit of peers that wrote to another address than the usual one; the oldest is removed first."""

Control = list[tuple[int, int, bytes]]
"""Ancillary data of one sendmsg(2)."""


class ReturnAddresses:
    """Own addresses by peer, shared by all sockets of a port with one IP version.

    ``in_use`` is set if this host has several addresses.
    """

    def __init__(self, version: int) -> None:
        self.version = version
        self.in_use = False
        self._usual: bytes | None = None
        self._asked: dict[Endpoint, bytes] = {}
        self._controls: dict[bytes, Control] = {}

    def follow(self, own: Collection[bytes], usual: bytes | None) -> None:
        """Set the packed addresses of this host, after they have changed.

        ``usual`` is the address for peers that have not written yet; with None, the routes decide.
        """
        self.in_use = len(own) > 1
        self._usual = usual if usual in own else None
        self._asked = {peer: local for peer, local in self._asked.items() if local in own}
        self._controls = {each: _control(each) for each in own} if self.in_use else {}

    def apply(self, to: socket.socket) -> None:
        """Switch the report of destination addresses on or off for a socket, after ``in_use``."""
        wanted = int(self.in_use)
        if self.version == 4:
            to.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, wanted)
        else:
            to.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, wanted)

    def learn(self, peer: Endpoint, local: bytes) -> None:
        """Remember that ``peer`` wrote to the packed address ``local`` of this host."""
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
        """Forget the address that was learned for a peer."""
        self._asked.pop(peer, None)

    def towards(self, peer: Endpoint) -> bytes | None:
        """Return the packed source address for ``peer``, or None if the routes decide."""
        return self._asked.get(peer, self._usual) if self.in_use else None

    def control(self, peer: Endpoint) -> Control:
        """Return the ancillary data that sets the source address of a datagram to ``peer``."""
        local = self._asked.get(peer, self._usual)
        return self._controls.get(local, []) if local is not None else []


def _control(local: bytes) -> Control:
    if len(local) == 4:
        return [(socket.IPPROTO_IP, _IP_PKTINFO, _INFO4.pack(0, local, bytes(4)))]
    return [(socket.IPPROTO_IPV6, _IPV6_PKTINFO, _INFO6.pack(local, 0))]
