"""Inner addresses: what an exit lends to a source for the life of a circuit."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Final

from overlay.addresses import (
    CIRCUIT_PREFIX,
    OVERLAY_PREFIX,
    InnerAddress,
    IpNetwork,
)
from overlay.apm.layer import Families
from overlay.errors import LimitReached

__all__ = ["InnerAddressPool", "InnerAddresses", "is_inner_address"]

_DRAWS: Final = 64
"""Draws before a pool counts as full: at half use the chance to miss a free address is 2**-64."""

_SHARED_V4: Final = ipaddress.IPv4Network("100.64.0.0/10")
_UNIQUE_LOCAL: Final = ipaddress.IPv6Network("fc00::/7")


@dataclass(frozen=True, slots=True)
class InnerAddresses:
    """The inner addresses of one circuit: one of either family, or both."""

    ipv4: InnerAddress | None = None
    ipv6: InnerAddress | None = None

    def __post_init__(self) -> None:
        if self.ipv4 is None and self.ipv6 is None:
            raise ValueError("a circuit has an inner address of at least one family")

    def __iter__(self) -> Iterator[InnerAddress]:
        """Yield the addresses, IPv4 first."""
        return (address for address in (self.ipv4, self.ipv6) if address is not None)

    @property
    def families(self) -> Families:
        """Which families there are."""
        families = Families(0)
        if self.ipv4 is not None:
            families |= Families.IPV4
        if self.ipv6 is not None:
            families |= Families.IPV6
        return families

    def of_version(self, version: int) -> InnerAddress | None:
        """Return the address of IP version 4 or 6, if there is one."""
        return self.ipv4 if version == 4 else self.ipv6


def is_inner_address(packed: bytes) -> bool:
    """Tell whether a source accepts this address from an exit.

    Only shared address space (RFC 6598) and unique local addresses (RFC 4193) outside of
    the overlay's own prefixes: else an exit could make a source hold an address of its
    local network, or a public one, and draw traffic into the circuit.
    """
    address = ipaddress.ip_address(packed)
    if isinstance(address, ipaddress.IPv4Address):
        return address in _SHARED_V4
    return address in _UNIQUE_LOCAL and not packed.startswith((OVERLAY_PREFIX, CIRCUIT_PREFIX))


class InnerAddressPool:
    """The exit's addresses: random ones, none twice at a time, none of the skip list.

    Random rather than counted, so that a source cannot tell how busy the exit is. Owns the
    set of addresses in use; its size is bounded by the prefixes and by the circuits.
    """

    def __init__(
        self,
        ipv4: ipaddress.IPv4Network | None,
        ipv6: ipaddress.IPv6Network | None,
        rng: Random,
        skip: Iterable[IpNetwork] = (),
    ) -> None:
        """Serve addresses of ``ipv4`` (4 to 30 bits long) and ``ipv6`` (8 to 120 bits long).

        Raises:
            ValueError: no prefix, or one whose addresses no source would accept.
        """
        if ipv4 is None and ipv6 is None:
            raise ValueError("the exit's inner addresses need an IPv4 or an IPv6 prefix.")
        if ipv4 is not None and not (ipv4.subnet_of(_SHARED_V4) and ipv4.prefixlen <= 30):
            raise ValueError("the inner IPv4 prefix must lie in 100.64.0.0/10, /30 or shorter.")
        if ipv6 is not None and not _is_usable_v6(ipv6):
            raise ValueError(
                "the inner IPv6 prefix must be a unique local one (fc00::/7), /120 or shorter,"
                " apart from the overlay's own prefixes."
            )
        self._ipv4 = ipv4
        self._ipv6 = ipv6
        self._rng = rng
        self._skip = tuple(skip)
        self._in_use: set[bytes] = set()

    def __len__(self) -> int:
        """Return how many addresses are lent."""
        return len(self._in_use)

    @property
    def families(self) -> Families:
        """Which families can be had."""
        families = Families(0)
        if self._ipv4 is not None:
            families |= Families.IPV4
        if self._ipv6 is not None:
            families |= Families.IPV6
        return families

    def assign(self, families: Families, taken: Callable[[bytes], bool]) -> InnerAddresses:
        """Lend one address per family; ``taken`` tells of other uses on this host.

        Raises:
            LimitReached: no free address was found, or the family is not offered.
        """
        ipv4 = ipv6 = None
        if Families.IPV4 in families:
            ipv4 = self._draw(self._ipv4, taken)
        if Families.IPV6 in families:
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
            raise LimitReached("this exit has no inner addresses of that family")
        for _ in range(_DRAWS):
            # Neither the first nor the last: network and broadcast address, or an anycast one.
            offset = self._rng.randrange(1, network.num_addresses - 1)
            address = network[offset]
            if address.packed in self._in_use or taken(address.packed):
                continue
            if not any(address.version == net.version and address in net for net in self._skip):
                return InnerAddress(address.packed)
        raise LimitReached("no inner address is free")


def _is_usable_v6(network: ipaddress.IPv6Network) -> bool:
    reserved = (
        ipaddress.IPv6Network((OVERLAY_PREFIX.ljust(16, b"\0"), 32)),
        ipaddress.IPv6Network((CIRCUIT_PREFIX.ljust(16, b"\0"), 32)),
    )
    return (
        network.subnet_of(_UNIQUE_LOCAL)
        and network.prefixlen <= 120
        and not any(network.overlaps(prefix) for prefix in reserved)
    )
