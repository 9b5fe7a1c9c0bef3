"""Find the networks of this host's own site, so that circuits cannot reach their hosts.

The router of a home or a company blocks connections from outside, but hosts inside reach each
other. IPv6 hosts inside have global addresses, so a circuit could reach them from the exit. A
company may also have public addresses behind further routers. The networks are derived from the
host's routes, because a provider may change prefixes.

::

    route without a router, over a device that has neighbours    ──> of the site
    the prefix of an address, over any device (tunnels)          ──> of the site
    route over a router that is not that of an uplink            ──> of the site
    default route, or a part of one                              ──> not
"""

from __future__ import annotations

import fcntl
import socket
import struct
from collections.abc import Collection, Iterable, Iterator
from typing import Final

from overlay.addresses import IpNetwork
from overlay.special_networks import forbidden_network, lies_in
from overlay.system.host_networks import SpecificRoute, specific_routes
from overlay.system.uplinks import Uplink

__all__ = ["own_links", "without"]

_SIOCGIFFLAGS: Final = 0x8913
_NO_NEIGHBOURS: Final = 0x10 | 0x80 | 0x08
"""IFF_POINTOPOINT, IFF_NOARP, IFF_LOOPBACK (Linux uapi ``linux/if.h``)."""

_MOST: Final = 256
"""Limit of networks; the operator of a host with more must use the exit policy."""


def own_links(
    opened: Iterable[IpNetwork] | None, inside: Collection[str], ways: Collection[Uplink] = ()
) -> tuple[IpNetwork, ...]:
    """Return the networks of this host's site, in a fixed order.

    Args:
        opened: networks that the operator opens for circuits; None opens all.
        inside: devices that lead into circuits.
        ways: the uplinks of both IP versions.

    Raises:
        BackendError: the routes could not be read.
    """
    if opened is None:
        return ()
    allowed = tuple(opened)
    out = {(way.device, way.gateway.packed if way.gateway else None) for way in ways}
    names = {index: name for index, name in socket.if_nameindex() if name not in inside}
    routes = [(names[each.device], each) for each in specific_routes() if each.device in names]
    linked = {r.network for device, r in routes if r.router is None and _is_link(r, device)}
    routed = {r.network for device, r in routes if r.router and (device, r.router) not in out}
    if len(routed) > _MOST:  # this host is a router with routes of its providers
        routed = set()
    found = {part for network in linked | routed for part in without(network, allowed)}
    largest = [n for n in found if not any(n != other and lies_in(n, other) for other in found)]
    # Public networks come first, because the exit policy refuses the others anyway.
    return tuple(sorted(largest, key=_order)[:_MOST])


def _order(network: IpNetwork) -> tuple[bool, int, int]:
    special = forbidden_network(network.network_address) is not None
    return special, network.version, int(network.network_address)


def without(network: IpNetwork, opened: Iterable[IpNetwork]) -> Iterator[IpNetwork]:
    """Yield the parts of a network that are in none of the ``opened`` ones."""
    parts = [network]
    for each in opened:
        parts = [rest for part in parts for rest in _rest(part, each)]
    yield from parts


def _rest(network: IpNetwork, opened: IpNetwork) -> Iterator[IpNetwork]:
    if lies_in(network, opened):
        return
    if not lies_in(opened, network):
        yield network
    else:
        yield from network.address_exclude(opened)  # type: ignore[arg-type] # of one version


def _is_link(route: SpecificRoute, device: str) -> bool:
    return route.of_address or not _has_no_neighbours(device)


def _has_no_neighbours(device: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        try:
            request = struct.pack("16s24x", device.encode())
            answer = fcntl.ioctl(control, _SIOCGIFFLAGS, request)
        except OSError:  # the device was deleted meanwhile
            return True
    (flags,) = struct.unpack_from("H", answer, 16)
    return bool(flags & _NO_NEIGHBOURS)
