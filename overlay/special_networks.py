"""IANA's registries of special addresses, and the networks that exits and links must not use.

:data:`SPECIAL_NETWORKS` is the content of the registries. :data:`FORBIDDEN_NETWORKS` follows from
it. A network is forbidden in any of these cases:

* The registry does not call it globally reachable, or IANA reserves it, or it is multicast.
* Its addresses embed IPv4 addresses. A translator could lead them into a private network.
* It belongs to a service of a cloud (:mod:`overlay.cloud_services`).

Sources: iana-ipv4-special-registry and iana-ipv6-special-registry, as of :data:`REGISTRY_DATE`
(RFC 6890, RFC 8190). Multicast and reserved networks are from iana-multicast-addresses (RFC 5771)
and ipv6-address-space (RFC 4291, section 2.4).
"""

from __future__ import annotations

import ipaddress
from bisect import bisect_right
from collections.abc import Iterable
from typing import Final, NamedTuple

from overlay.addresses import IpAddress, IpNetwork
from overlay.cloud_services import CLOUD_SERVICES

__all__ = [
    "DOCUMENTATION_NETWORKS",
    "FORBIDDEN_NETWORKS",
    "PRIVATE_NETWORKS",
    "REGISTRY_DATE",
    "SITE_NETWORKS",
    "SPECIAL_NETWORKS",
    "SpecialNetwork",
    "forbidden_network",
    "forbidden_packed",
    "lies_in",
    "opens",
    "services_within",
]

REGISTRY_DATE: Final = "2025-10-09"


class SpecialNetwork(NamedTuple):
    """One entry of a registry.

    ``kind`` completes "a ... address". ``reachable`` is the column "Globally Reachable", and None
    is the registry's "N/A". ``embeds_ipv4`` says that the addresses contain IPv4 addresses to which
    a translator forwards.
    """

    prefix: str
    kind: str
    source: str
    reachable: bool | None = False
    embeds_ipv4: bool = False

    @property
    def network(self) -> IpNetwork:
        """The prefix as a network."""
        return ipaddress.ip_network(self.prefix)


SPECIAL_NETWORKS: Final = (
    # -- iana-ipv4-special-registry --
    SpecialNetwork("0.0.0.0/8", "unspecified", "RFC 791, section 3.2"),
    SpecialNetwork("10.0.0.0/8", "private", "RFC 1918"),
    SpecialNetwork("100.64.0.0/10", "shared (carrier-grade NAT)", "RFC 6598"),
    SpecialNetwork("127.0.0.0/8", "loopback", "RFC 1122, section 3.2.1.3"),
    SpecialNetwork("169.254.0.0/16", "link-local", "RFC 3927"),
    SpecialNetwork("172.16.0.0/12", "private", "RFC 1918"),
    SpecialNetwork("192.0.0.0/24", "protocol assignment", "RFC 6890, section 2.1"),
    # The registry calls 192.0.0.9 and 192.0.0.10 reachable. But a gateway of the exit's own network
    # answers there (port control, TURN), so the whole /24 stays forbidden.
    SpecialNetwork("192.0.0.9/32", "port control anycast", "RFC 7723", reachable=True),
    SpecialNetwork("192.0.0.10/32", "TURN anycast", "RFC 8155", reachable=True),
    SpecialNetwork("192.0.2.0/24", "documentation", "RFC 5737"),
    SpecialNetwork("192.31.196.0/24", "AS112", "RFC 7535", reachable=True),
    SpecialNetwork("192.52.193.0/24", "AMT", "RFC 7450", reachable=True),
    SpecialNetwork("192.88.99.0/24", "6to4 relay", "RFC 7526", reachable=None),
    SpecialNetwork("192.168.0.0/16", "private", "RFC 1918"),
    SpecialNetwork("192.175.48.0/24", "AS112", "RFC 7534", reachable=True),
    SpecialNetwork("198.18.0.0/15", "benchmarking", "RFC 2544"),
    SpecialNetwork("198.51.100.0/24", "documentation", "RFC 5737"),
    SpecialNetwork("203.0.113.0/24", "documentation", "RFC 5737"),
    SpecialNetwork("240.0.0.0/4", "reserved", "RFC 1112, section 4"),
    # -- iana-ipv6-special-registry --
    SpecialNetwork("::/127", "unspecified or loopback", "RFC 4291"),
    SpecialNetwork("::ffff:0:0/96", "IPv4-mapped", "RFC 4291", embeds_ipv4=True),
    SpecialNetwork("64:ff9b::/96", "NAT64", "RFC 6052", reachable=True, embeds_ipv4=True),
    SpecialNetwork("64:ff9b:1::/48", "NAT64", "RFC 8215", embeds_ipv4=True),
    SpecialNetwork("100::/64", "discard", "RFC 6666"),
    SpecialNetwork("100:0:0:1::/64", "dummy", "RFC 9780"),
    SpecialNetwork("2001::/23", "protocol assignment", "RFC 2928"),
    SpecialNetwork("2001::/32", "Teredo", "RFC 4380", reachable=None, embeds_ipv4=True),
    # The registry calls the following reachable, or they were withdrawn. Anycast addresses lead to
    # a gateway of the exit's own network, and ORCHIDs are no locators. So all of 2001::/23 stays
    # forbidden.
    SpecialNetwork("2001:1::1/128", "port control anycast", "RFC 7723", reachable=True),
    SpecialNetwork("2001:1::2/128", "TURN anycast", "RFC 8155", reachable=True),
    SpecialNetwork("2001:1::3/128", "service registration anycast", "RFC 9665", reachable=True),
    SpecialNetwork("2001:2::/48", "benchmarking", "RFC 5180"),
    SpecialNetwork("2001:3::/32", "AMT", "RFC 7450", reachable=True),
    SpecialNetwork("2001:4:112::/48", "AS112", "RFC 7535", reachable=True),
    SpecialNetwork("2001:10::/28", "ORCHID", "RFC 4843", reachable=None),
    SpecialNetwork("2001:20::/28", "ORCHID", "RFC 7343", reachable=True),
    SpecialNetwork("2001:30::/28", "drone identification", "RFC 9374", reachable=True),
    SpecialNetwork("2001:db8::/32", "documentation", "RFC 3849"),
    SpecialNetwork("2002::/16", "6to4", "RFC 3056", reachable=None, embeds_ipv4=True),
    SpecialNetwork("2620:4f:8000::/48", "AS112", "RFC 7534", reachable=True),
    SpecialNetwork("3fff::/20", "documentation", "RFC 9637"),
    SpecialNetwork("5f00::/16", "segment routing", "RFC 9602"),
    SpecialNetwork("fc00::/7", "private", "RFC 4193"),
    SpecialNetwork("fe80::/10", "link-local", "RFC 4291"),
    # -- from other registries --
    SpecialNetwork("224.0.0.0/4", "multicast", "RFC 5771"),
    SpecialNetwork("::/96", "IPv4-compatible", "RFC 4291, section 2.5.5.1", embeds_ipv4=True),
    SpecialNetwork("::ffff:0:0:0/96", "IPv4-translated", "RFC 2765", embeds_ipv4=True),
    SpecialNetwork("fec0::/10", "site-local", "RFC 3879"),
    SpecialNetwork("ff00::/8", "multicast", "RFC 4291, section 2.7"),
    # All addresses outside of 2000::/3, because only that prefix has global unicast addresses.
    SpecialNetwork("::/3", "reserved", "RFC 4291, section 2.4"),
    SpecialNetwork("4000::/2", "reserved", "RFC 4291, section 2.4"),
    SpecialNetwork("8000::/1", "reserved", "RFC 4291, section 2.4"),
)
"""Entries of all registries; of several entries with an address, the most specific one applies."""

_SPECIAL: Final = tuple(
    (each.network, each.kind) for each in SPECIAL_NETWORKS if not each.reachable or each.embeds_ipv4
)

_SERVICES: Final = tuple(each.network for each in CLOUD_SERVICES)

_FORBIDDEN: Final = _SPECIAL + tuple(
    (each, "cloud service")
    for each in _SERVICES
    # A service within a special network keeps the kind of that network.
    if not any(each.version == n.version and each.network_address in n for n, _ in _SPECIAL)
)

DOCUMENTATION_NETWORKS: Final = tuple(
    each.network for each in SPECIAL_NETWORKS if each.kind == "documentation"
)
"""Networks without an owner, which laboratories use as public addresses."""

PRIVATE_NETWORKS: Final = tuple(
    each.network for each in SPECIAL_NETWORKS if each.source in ("RFC 1918", "RFC 6598", "RFC 4193")
)
"""Networks from which an exit may lend inner addresses: private use, shared, unique local."""

_SITE_KINDS: Final = frozenset(
    (
        "unspecified",
        "unspecified or loopback",
        "private",
        "shared (carrier-grade NAT)",
        "loopback",
        "link-local",
        "multicast",
    )
)

SITE_NETWORKS: Final = tuple((network, kind) for network, kind in _FORBIDDEN if kind in _SITE_KINDS)
"""Networks that hosts use within their site, with their kinds; no path may cover a whole one."""


def lies_in(network: IpNetwork, other: IpNetwork) -> bool:
    """Tell whether ``network`` is ``other`` or a part of it; versions may differ."""
    return (
        network.version == other.version
        and other.prefixlen <= network.prefixlen
        and network.network_address in other
    )


def opens(opened: IpNetwork, destination: IpAddress) -> bool:
    """Tell whether a network that an operator permits by name permits a destination in it.

    Only a cloud service's own prefix, or a part of it, permits the service.
    """
    if destination.version != opened.version or destination not in opened:
        return False
    return not any(destination in each for each in services_within(opened))


def services_within(opened: IpNetwork) -> list[IpNetwork]:
    """Return the cloud services that a network contains, unless it is exactly the service."""
    return [each for each in _SERVICES if lies_in(each, opened) and each != opened]


def _intervals(version: int) -> tuple[list[int], list[str | None]]:
    """Return the addresses at which the kind changes, and the kind from each on.

    Networks contain each other, so the most specific one at each address decides.
    """
    networks = [(net, kind) for net, kind in _FORBIDDEN if net.version == version]
    borders = {0}
    for network, _ in networks:
        first = int(network.network_address)
        borders |= {first, first + network.num_addresses}
    starts = sorted(border for border in borders if border >> (32 if version == 4 else 128) == 0)
    kinds: list[str | None] = []
    for start in starts:
        covering = [
            (net.prefixlen, kind)
            for net, kind in networks
            if 0 <= start - int(net.network_address) < net.num_addresses
        ]
        kinds.append(max(covering)[1] if covering else None)
    return starts, kinds


_STARTS_V4, _KINDS_V4 = _intervals(4)
_STARTS_V6, _KINDS_V6 = _intervals(6)


def forbidden_network(address: IpAddress) -> str | None:
    """Return the kind of a forbidden address ("private", ...), or None if it is public.

    It is one binary search, because exits call it for packets and path selection for each exit.
    """
    return forbidden_packed(address.packed)


def forbidden_packed(packed: bytes) -> str | None:
    """Return the same for an address in network byte order, of 4 or 16 bytes."""
    number = int.from_bytes(packed, "big")
    if len(packed) == 4:
        return _KINDS_V4[bisect_right(_STARTS_V4, number) - 1]
    return _KINDS_V6[bisect_right(_STARTS_V6, number) - 1]


def _collapsed() -> Iterable[tuple[IpNetwork, str]]:
    """Yield the forbidden networks that are not part of another forbidden network."""
    for network, kind in _FORBIDDEN:
        if not any(network != other and lies_in(network, other) for other, _ in _FORBIDDEN):
            yield network, kind


FORBIDDEN_NETWORKS: Final[tuple[tuple[IpNetwork, str], ...]] = tuple(_collapsed())
"""The fewest networks that cover all forbidden addresses, with their kinds; for packet filters."""
