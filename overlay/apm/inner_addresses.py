"""Inner addresses, which an exit lends to a source for the lifetime of a circuit."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Final

from overlay.addresses import (
    CIRCUIT_PREFIX,
    OVERLAY_NETWORKS,
    OVERLAY_PREFIX,
    InnerAddress,
    IpNetwork,
)
from overlay.apm.layer import IpVersions
from overlay.errors import LimitReached
from overlay.special_networks import PRIVATE_NETWORKS, lies_in

__all__ = [
    "InnerAddressPool",
    "InnerAddresses",
    "is_inner_address",
    "pool_problem",
    "wanted_pool",
    "why_unusable",
]

_DRAWS: Final = 64
"""Draws before a pool counts as full. If half of it is in use, all fail with probability 2**-64."""

_SHORTEST: Final = {4: 8, 6: 16}
_LONGEST: Final = {4: 29, 6: 112}
"""A longer prefix has too few addresses for a gateway, several circuits and successful draws."""


@dataclass(frozen=True, slots=True)
class InnerAddresses:
    """The inner addresses of one circuit: an IPv4 address, an IPv6 address or both."""

    ipv4: InnerAddress | None = None
    ipv6: InnerAddress | None = None

    def __post_init__(self) -> None:
        if self.ipv4 is None and self.ipv6 is None:
            raise ValueError("a circuit has an inner address of at least one IP version")

    def __iter__(self) -> Iterator[InnerAddress]:
        """Yield the addresses, IPv4 first."""
        return (address for address in (self.ipv4, self.ipv6) if address is not None)

    @property
    def families(self) -> IpVersions:
        """The IP versions of the addresses."""
        families = IpVersions(0)
        if self.ipv4 is not None:
            families |= IpVersions.IPV4
        if self.ipv6 is not None:
            families |= IpVersions.IPV6
        return families

    def of_version(self, version: int) -> InnerAddress | None:
        """Return the address of IP version 4 or 6, None if there is none."""
        return self.ipv4 if version == 4 else self.ipv6


def is_inner_address(packed: bytes) -> bool:
    """Tell whether a source accepts this address from an exit.

    It accepts private (RFC 1918), shared (RFC 6598) and unique local addresses (RFC 4193) outside
    of the overlay's own prefixes. Another check finds whether the source's host uses the address.
    """
    address = ipaddress.ip_address(packed)
    return any(
        address.version == network.version and address in network for network in PRIVATE_NETWORKS
    ) and not packed.startswith((OVERLAY_PREFIX, CIRCUIT_PREFIX))


def why_unusable(addresses: InnerAddresses, version: int) -> str | None:
    """Return a sentence that says why a source cannot use an exit's addresses, or None.

    Args:
        addresses: addresses that the exit lent.
        version: IP version of the destination, 4 or 6.
    """
    if addresses.of_version(version) is None:
        return "The exit lent no inner address of the destination's IP version."
    if not all(is_inner_address(address) for address in addresses):
        return "The exit lent an address that cannot be an inner address."
    return None


def pool_problem(network: IpNetwork) -> str | None:
    """Return the rule that a network of inner addresses breaks, as text after "must", or None."""
    shortest, longest = _SHORTEST[network.version], _LONGEST[network.version]
    if not shortest <= network.prefixlen <= longest:
        return f"be a prefix from /{shortest} to /{longest}"
    alike = [each for each in PRIVATE_NETWORKS if each.version == network.version]
    if not any(lies_in(network, each) for each in alike):
        return f"lie in {_listed(alike)}"
    for own in OVERLAY_NETWORKS:
        if own.version == network.version and network.overlaps(own):
            return f"lie apart from the overlay's own prefix {own}"
    return None


def wanted_pool(version: int) -> str:
    """Return text that says which networks can have inner addresses of IP version 4 or 6."""
    alike = _listed([each for each in PRIVATE_NETWORKS if each.version == version])
    return f"a prefix from /{_SHORTEST[version]} to /{_LONGEST[version]} in {alike}"


def _listed(networks: list[IpNetwork]) -> str:
    *most, last = map(str, networks)
    return f"{', '.join(most)} or {last}" if most else last


class InnerAddressPool:
    """The inner addresses of an exit; each is lent to at most one circuit at a time.

    Addresses are drawn at random, so that a source cannot infer the number of circuits. The pool
    stores the addresses in use. Their number is limited by the prefixes and by the circuits.
    """

    def __init__(
        self,
        ipv4: ipaddress.IPv4Network | None,
        ipv6: ipaddress.IPv6Network | None,
        rng: Random,
        skip: Iterable[IpNetwork] = (),
    ) -> None:
        """Create a pool of the addresses in ``ipv4`` and ``ipv6`` that are not in ``skip``.

        Raises:
            ValueError: there is no prefix, or one that :func:`pool_problem` does not allow.
        """
        if ipv4 is None and ipv6 is None:
            raise ValueError("the exit's inner addresses need an IPv4 or an IPv6 prefix.")
        for network in (ipv4, ipv6):
            problem = pool_problem(network) if network is not None else None
            if problem is not None:
                raise ValueError(f"the inner prefix {network} must {problem}.")
        self._ipv4 = ipv4
        self._ipv6 = ipv6
        self._rng = rng
        self._skip = tuple(skip)
        self._offered = IpVersions.IPV4 | IpVersions.IPV6
        self._in_use: set[bytes] = set()

    def __len__(self) -> int:
        """Return the number of lent addresses."""
        return len(self._in_use)

    @property
    def places(self) -> int:
        """Number of circuits that can have addresses of each IP version at the same time."""
        return min(
            network.num_addresses - 2 for network in (self._ipv4, self._ipv6) if network is not None
        )

    @property
    def families(self) -> IpVersions:
        """The IP versions of which the pool lends addresses at present."""
        families = IpVersions(0)
        if self._ipv4 is not None:
            families |= IpVersions.IPV4
        if self._ipv6 is not None:
            families |= IpVersions.IPV6
        return families & self._offered

    def offer(self, families: IpVersions) -> None:
        """Lend only addresses of these IP versions from now on; none closes the exit."""
        self._offered = families

    def assign(self, families: IpVersions, taken: Callable[[bytes], bool]) -> InnerAddresses:
        """Lend one address per IP version; ``taken`` tells whether this host uses an address.

        Raises:
            LimitReached: no free address was found, or the pool has none of this IP version.
        """
        ipv4 = ipv6 = None
        if IpVersions.IPV4 in families:
            ipv4 = self._draw(self._ipv4, taken)
        if IpVersions.IPV6 in families:
            ipv6 = self._draw(self._ipv6, taken)
        addresses = InnerAddresses(ipv4, ipv6)
        self._in_use.update(addresses)
        return addresses

    def release(self, addresses: InnerAddresses) -> None:
        """Take addresses back."""
        self._in_use.difference_update(addresses)

    def lends(self, packed: bytes) -> bool:
        """Tell whether an address is lent."""
        return packed in self._in_use

    def _draw(self, network: IpNetwork | None, taken: Callable[[bytes], bool]) -> InnerAddress:
        if network is None:
            raise LimitReached("this exit has no inner addresses of that IP version")
        for _ in range(_DRAWS):
            # Exclude the first and the last address: network, broadcast or anycast address.
            offset = self._rng.randrange(1, network.num_addresses - 1)
            address = network[offset]
            if address.packed in self._in_use or taken(address.packed):
                continue
            if not any(address.version == net.version and address in net for net in self._skip):
                return InnerAddress(address.packed)
        raise LimitReached("no inner address is free")
