"""Compute the prefixes that ``both_versions`` blocks while a path exists.

A server often has an IPv4 and an IPv6 address. A path covers the addresses that the user named.
Programs that know the other address would send to it in the clear. ``both_versions`` blocks all
addresses of the other IP version except the local ranges below. The kill switch takes prefixes,
so a version is blocked by the smallest set of prefixes that excludes the local ranges.

Local ranges stay reachable, because a host needs them to take part in its own network::

    IPv4   10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 (RFC 1918), 100.64.0.0/10 (RFC 6598, also
           inner addresses), 169.254.0.0/16 (RFC 3927), 224.0.0.0/3 (multicast, broadcast)
    IPv6   fc00::/7 (RFC 4193, also overlay, circuit and inner addresses), fe80::/10, ff00::/8

Addresses of this host itself are not affected, because the kernel's table ``local`` comes before
the routes of the kill switch. The longest prefix decides, so a path to an address of a blocked
version works.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from overlay.addresses import IpNetwork

__all__ = ["BLOCKED_FAMILY", "blocked_versions", "other_version", "split_leftovers"]

_LOCAL_RANGES: Final = {
    4: (
        "10.0.0.0/8",
        "100.64.0.0/10",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "224.0.0.0/3",
    ),
    6: ("fc00::/7", "fe80::/10", "ff00::/8"),
}


def _complement(version: int) -> tuple[IpNetwork, ...]:
    remaining: list[IpNetwork] = [ipaddress.ip_network("0.0.0.0/0" if version == 4 else "::/0")]
    for text in _LOCAL_RANGES[version]:
        local = ipaddress.ip_network(text)
        outside = [each for each in remaining if not each.overlaps(local)]
        for each in remaining:
            if each.overlaps(local):
                outside += each.address_exclude(local)  # type: ignore[arg-type]  # same version
        remaining = outside
    return tuple(sorted(remaining, key=lambda network: int(network.network_address)))


BLOCKED_FAMILY: Final[Mapping[int, tuple[IpNetwork, ...]]] = {
    version: _complement(version) for version in (4, 6)
}
"""The prefixes that block an IP version, lowest address first.

The first one contains the unspecified address, so no path can have it as its destination
(:mod:`overlay.paths.destinations`). So its presence in the kernel means that the version is
blocked. It is protected first and released last.
"""


def other_version(version: int) -> int:
    """Return 6 for IP version 4, and 4 for 6."""
    return 10 - version


def split_leftovers(prefixes: Collection[IpNetwork]) -> tuple[list[IpNetwork], set[int]]:
    """Separate destinations from blocked IP versions among the prefixes that the kernel protects.

    Returns:
        The destinations, and the versions of which at least the first prefix is protected.
    """
    blocked = {version for version, block in BLOCKED_FAMILY.items() if block[0] in prefixes}
    of_blocks = {prefix for version in blocked for prefix in BLOCKED_FAMILY[version]}
    return [prefix for prefix in prefixes if prefix not in of_blocks], blocked


def blocked_versions(all_terms: Iterable[tuple[IpNetwork, bool]]) -> set[int]:
    """Return the IP versions to block, given the destination and ``both_versions`` of each path."""
    return {other_version(destination.version) for destination, both in all_terms if both}
