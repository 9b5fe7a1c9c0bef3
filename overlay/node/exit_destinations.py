"""Addresses at which an exit's own host, or its router, answers: no circuit reaches them.

The packet filter keeps circuits from the addresses that the host holds. Behind address
translation it is also reached by the router's outside address: the router sends such packets back
(hairpin translation), and services that trust the local network would answer circuits. The router
itself answers at its own address as well, with its administration pages.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

from overlay.addresses import Endpoint, IpNetwork
from overlay.config import Configuration
from overlay.exit_policy import ExitPolicy
from overlay.special_networks import FORBIDDEN_NETWORKS, forbidden_network, lies_in
from overlay.system.exit_limits import ExitLimits

__all__ = [
    "exit_limits",
    "host_networks",
    "opened_links",
    "public_links",
    "refused_addresses",
]

_MOST_SIGNED: Final = 4
"""Networks of the host's own links that a descriptor names; each takes one of its 16 rules."""


def refused_addresses(
    endpoints: Iterable[Endpoint], gateways: frozenset[bytes]
) -> frozenset[bytes]:
    """Return the packed addresses of where others reach this node, and of its routers.

    ``endpoints`` are those that the node signs; unspecified addresses are left out. Routers with
    private addresses are left to the exit policy, which refuses them unless the operator opened
    them by name.
    """
    own = {each.packed for each in endpoints if not each.address.is_unspecified}
    public = {each for each in gateways if forbidden_network(ipaddress.ip_address(each)) is None}
    return frozenset(own | public)


def host_networks(addresses: Iterable[bytes]) -> tuple[IpNetwork, ...]:
    """Return packed addresses as networks of one host each, in a fixed order."""
    return tuple(ipaddress.ip_network(each) for each in sorted(addresses))


def opened_links(configuration: Configuration) -> tuple[IpNetwork, ...] | None:
    """Return what circuits may reach on this host's own links; None stands for everything."""
    given = configuration.exit
    return None if given.allow_own_links else given.allow_forbidden


def public_links(networks: Iterable[IpNetwork], policy: ExitPolicy) -> list[IpNetwork]:
    """Return the refused networks that a policy would permit, so that sources must be told.

    They are the largest ones, as many as the policy has room for.
    """
    special = [each for each, _ in FORBIDDEN_NETWORKS]
    told = [
        each
        for each in networks
        if not any(lies_in(each, other) for other in special)
        or any(each.overlaps(opened) for opened in policy.allowed_forbidden if _alike(each, opened))
    ]
    room = min(_MOST_SIGNED, policy.room)
    return sorted(told, key=lambda n: (n.prefixlen - n.max_prefixlen, str(n)))[:room]


def _alike(first: IpNetwork, second: IpNetwork) -> bool:
    return first.version == second.version


def exit_limits(configuration: Configuration) -> ExitLimits:
    """Return how many connections circuits may have."""
    given = configuration.exit
    return ExitLimits(
        given.max_connections_per_circuit, given.max_connection_rate_per_s, given.max_connections
    )
