"""Find the addresses of an exit's host and its router, which no circuit may reach.

The packet filter blocks packets of circuits to the addresses that the host holds. Behind NAT, the
host is also reached at the outside address of its router, which sends such packets back (hairpin
translation). Then services that trust the local network would answer packets of circuits. The
router itself answers at its own addresses too, often with administration pages.
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
"""Most networks of the host's links in one descriptor; each takes one of its 16 rules."""


def refused_addresses(
    endpoints: Iterable[Endpoint], gateways: frozenset[bytes]
) -> frozenset[bytes]:
    """Return the packed addresses of this node's endpoints and of its public routers.

    ``endpoints`` are those that the node signs; unspecified addresses are left out. ``gateways``
    are packed addresses. Routers with private addresses are left out as well, because the exit
    policy refuses them unless the operator allowed them.
    """
    own = {each.packed for each in endpoints if not each.address.is_unspecified}
    public = {each for each in gateways if forbidden_network(ipaddress.ip_address(each)) is None}
    return frozenset(own | public)


def host_networks(addresses: Iterable[bytes]) -> tuple[IpNetwork, ...]:
    """Return packed addresses as networks with one address each, sorted."""
    return tuple(ipaddress.ip_network(each) for each in sorted(addresses))


def opened_links(configuration: Configuration) -> tuple[IpNetwork, ...] | None:
    """Return the networks on this host's links that circuits may reach; None means all."""
    given = configuration.exit
    return None if given.allow_own_links else given.allow_forbidden


def public_links(networks: Iterable[IpNetwork], policy: ExitPolicy) -> list[IpNetwork]:
    """Return the refused networks that a policy would permit, largest first.

    They are signed so that sources do not choose this exit for them. The number is limited by
    ``_MOST_SIGNED`` and by the rules that the policy has left.
    """
    special = [each for each, _ in FORBIDDEN_NETWORKS]
    told = [
        each
        for each in networks
        if not any(lies_in(each, other) for other in special)
        or any(each.overlaps(opened) for opened in policy.allowed_forbidden if _alike(each, opened))
    ]
    room = min(_MOST_SIGNED, policy.room)
    # The difference is minus the number of host bits, so networks of both versions compare.
    return sorted(told, key=lambda n: (n.prefixlen - n.max_prefixlen, str(n)))[:room]


def _alike(first: IpNetwork, second: IpNetwork) -> bool:
    return first.version == second.version


def exit_limits(configuration: Configuration) -> ExitLimits:
    """Return the configured limits on connections of circuits."""
    given = configuration.exit
    return ExitLimits(
        given.max_connections_per_circuit, given.max_connection_rate_per_s, given.max_connections
    )
