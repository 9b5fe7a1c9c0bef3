"""Destinations that no path may take over, because the host or the overlay itself needs them."""

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
    """Refuse a destination that would swallow what is not a destination.

    A single special address is not refused here: exits may allow it, and path selection
    says so if none does.

    Args:
        destination: a host or a prefix.
        own_addresses: packed addresses of this host.
        inner_networks: from which exits lend inner addresses.

    Raises:
        ConfigurationError: one sentence; it does not name the destination.
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
    return (
        destination.version == network.version
        and destination.prefixlen <= network.prefixlen
        and network.network_address in destination
    )
