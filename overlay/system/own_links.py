"""Networks of this host's own site, whose hosts no circuit reaches.

A router of a home or a company lets strangers in to nothing, but hosts of its network reach each
other. IPv6 hosts have global addresses there, so an exit would lend its circuits that position. A
company also has public addresses behind other routers than the one towards the outside. The
networks follow the host's routes, because a provider changes prefixes.

::

    route without a router, over a device that has neighbours    ──> of the site
    the prefix of an address, over any device (tunnels)          ──> of the site
    route by a router that is not that of a way out              ──> of the site
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
"""A host with more networks has them summed up by the policy of its operator."""


def own_links(
    opened: Iterable[IpNetwork] | None, inside: Collection[str], ways: Collection[Uplink] = ()
) -> tuple[IpNetwork, ...]:
    """Return the networks of this host's site, in a fixed order.

    Args:
        opened: what the operator lets circuits reach; None stands for everything.
        inside: devices that lead into circuits.
        ways: the ways out, of both IP versions.

    Raises:
        BackendError: the kernel does not tell its routes.
    """
    if opened is None:
        return ()
    allowed = tuple(opened)
    out = {(way.device, way.gateway.packed if way.gateway else None) for way in ways}
    names = {index: name for index, name in socket.if_nameindex() if name not in inside}
    routes = [(names[each.device], each) for each in specific_routes() if each.device in names]
    linked = {r.network for device, r in routes if r.router is None and _is_link(r, device)}
    routed = {r.network for device, r in routes if r.router and (device, r.router) not in out}
    if len(routed) > _MOST:  # a router with the routes of its providers
        routed = set()
    found = {part for network in linked | routed for part in without(network, allowed)}
    largest = [n for n in found if not any(n != other and lies_in(n, other) for other in found)]
    # Public networks first, because the policy refuses the others by itself.
    return tuple(sorted(largest, key=_order)[:_MOST])


def _order(network: IpNetwork) -> tuple[bool, int, int]:
    special = forbidden_network(network.network_address) is not None
    return special, network.version, int(network.network_address)


def without(network: IpNetwork, opened: Iterable[IpNetwork]) -> Iterator[IpNetwork]:
    """Yield the parts of a network that lie in none of the ``opened`` ones."""
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
        except OSError:  # it has gone since
            return True
    (flags,) = struct.unpack_from("H", answer, 16)
    return bool(flags & _NO_NEIGHBOURS)
