"""Refuse destinations that the host or the overlay itself needs.

A path to such a destination would cut the host off from its network or the node from its peers.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from overlay.addresses import OVERLAY_NETWORKS, IpNetwork
from overlay.errors import ConfigurationError
from overlay.special_networks import SITE_NETWORKS

__all__ = ["check_destination"]


def check_destination(
    destination: IpNetwork,
    *,
    own_addresses: Iterable[bytes],
    inner_networks: Iterable[IpNetwork],
) -> None:
    """Check that a path may have this destination.

    Single addresses of special networks are accepted, because exits may allow them. If no exit
    does, path selection reports that.

    Args:
        destination: an address or a prefix.
        own_addresses: packed addresses of this host.
        inner_networks: networks from which exits lend inner addresses.

    Raises:
        ConfigurationError: no path may have it; the message does not contain the destination.
    """
    for network, what in SITE_NETWORKS:
        if _contains(destination, network):
            raise ConfigurationError(
                f"the destination contains all of {network} ({what}), which no path may take "
                "over; name smaller prefixes or single addresses."
            )
    for network in (*OVERLAY_NETWORKS, *inner_networks):
        if network.version == destination.version and network.overlaps(destination):
            raise ConfigurationError(
                f"the destination overlaps {network}, the overlay's own addresses; "
                "name one outside of them."
            )
    own = (ipaddress.ip_address(packed) for packed in own_addresses)
    if any(a.version == destination.version and a in destination for a in own):
        raise ConfigurationError(
            "the destination is, or contains, an address of this host itself; "
            "name one that lies elsewhere."
        )


def _contains(destination: IpNetwork, network: IpNetwork) -> bool:
    """Tell whether ``network`` lies in ``destination`` as a whole."""
    return (
        destination.version == network.version
        and destination.prefixlen <= network.prefixlen
        and network.network_address in destination
    )
