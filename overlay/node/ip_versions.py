"""The other IP version of a server: what ``both_versions`` blocks while a path is there.

A server often has an IPv4 and an IPv6 address. A path covers the addresses that the user named;
programs that know the other address would go there in the clear. ``both_versions`` blocks the
other IP version as a whole: every address of it outside of the local ranges below. The guard
takes prefixes, so a version is blocked by the fewest prefixes that leave the local ranges out.

Local ranges stay reachable, because a host needs them to be on its network at all::

    IPv4   10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 (RFC 1918), 100.64.0.0/10 (RFC 6598, also
           inner addresses), 169.254.0.0/16 (RFC 3927), 224.0.0.0/3 (multicast, broadcast)
    IPv6   fc00::/7 (RFC 4193, also overlay, circuit and inner addresses), fe80::/10, ff00::/8

Addresses of this host itself are routed before the guard is asked (the kernel's table
``local``). The longest prefix decides, so a path to an address of a blocked version works.
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
(``overlay.node.destinations``): it tells a blocked version from a path's own prefix. It is
protected first and released last.
"""


def other_version(version: int) -> int:
    """Return 6 for 4, and 4 for 6."""
    return 10 - version


def split_leftovers(prefixes: Collection[IpNetwork]) -> tuple[list[IpNetwork], set[int]]:
    """Tell destinations from blocked IP versions among prefixes that the kernel guards.

    Returns:
        The destinations, and the versions of which at least the first prefix is guarded.
    """
    blocked = {version for version, block in BLOCKED_FAMILY.items() if block[0] in prefixes}
    of_blocks = {prefix for version in blocked for prefix in BLOCKED_FAMILY[version]}
    return [prefix for prefix in prefixes if prefix not in of_blocks], blocked


def blocked_versions(wishes: Iterable[tuple[IpNetwork, bool]]) -> set[int]:
    """Return the IP versions to block for paths, each a destination and its both_versions."""
    return {other_version(destination.version) for destination, both in wishes if both}
