"""Read this host's own addresses, and the one that the kernel uses towards a peer."""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import Final

from overlay.addresses import Endpoint, IpAddress
from overlay.system.failures import refused
from overlay.system.netlink_messages import DUMP, answers, attributes, message
from overlay.system.udp import bound_socket

__all__ = ["local_address_towards", "own_addresses", "uplink_mtu"]

# IP_MTU and IPV6_MTU of Linux (in.h, in6.h), which the socket module does not have.
_IP_MTU: Final = (socket.IPPROTO_IP, 14)
_IPV6_MTU: Final = (socket.IPPROTO_IPV6, 24)

_RTM_GETADDR: Final = 22
_IFADDRMSG_BYTES: Final = 8
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
"""The local end of a point-to-point device; elsewhere the same as the address (rtnetlink(7))."""


def local_address_towards(peer: Endpoint, *, mark: int | None = None) -> IpAddress:
    """Return the local address of datagrams to ``peer``; nothing is sent.

    It is the address of a connected UDP socket; connecting one only looks up the route. ``mark`` is
    the node's own firewall mark. With it, a peer that is also a protected destination is looked up
    in the same way as for the node's datagrams.

    Raises:
        BackendError: there is no route to the peer.
    """
    wildcard = Endpoint("::" if ":" in peer.host else "0.0.0.0", 0)
    with bound_socket(wildcard, mark=mark) as probe:
        try:
            probe.connect(peer)
        except OSError as error:
            raise refused(
                "finding the local address towards a peer",
                error,
                "give this host a route to the network of its peers",
            ) from error
        return ipaddress.ip_address(probe.getsockname()[0])


def uplink_mtu(peer: Endpoint, *, mark: int | None = None) -> int:
    """Return the MTU in bytes of packets to ``peer``; nothing is sent.

    It is that of the route and its device, or less if a router has reported less. The arguments
    are those of :func:`local_address_towards`.

    Raises:
        BackendError: there is no route to the peer.
    """
    is_ipv6 = ":" in peer.host
    with bound_socket(Endpoint("::" if is_ipv6 else "0.0.0.0", 0), mark=mark) as probe:
        try:
            probe.connect(peer)
            return probe.getsockopt(*(_IPV6_MTU if is_ipv6 else _IP_MTU))
        except OSError as error:
            raise refused("finding the MTU towards a peer", error) from error


def own_addresses() -> frozenset[bytes]:
    """Return the packed addresses of all devices of this network namespace, including loopback.

    This takes tens of microseconds.

    Raises:
        BackendError: the addresses could not be read.
    """
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
            netlink.bind((0, 0))
            netlink.send(message(_RTM_GETADDR, DUMP, struct.pack("=BBBBI", 0, 0, 0, 0, 0)))
            found = [attributes(body[_IFADDRMSG_BYTES:]) for body in answers(netlink)]
    except OSError as error:
        raise refused("listing this host's addresses", error) from error
    addresses = (each.get(_IFA_LOCAL) or each.get(_IFA_ADDRESS) for each in found)
    return frozenset(address for address in addresses if address)
