"""Nested shares of a bounded table for each address, site and provider.

Identities cost nothing, but addresses do. An entry is admitted only if each of its groups has
room::

    IPv4   address (/32)   -> site (/24) -> provider (/16)
    IPv6   customer (/56)  -> site (/48) -> provider (/32)

A group may hold at most a fraction of the places that are *still free*. This is the dynamic
threshold of Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet
switches" (1998). So a group that is alone gets many places, and each attacking group leaves room
for the next one: ``n`` providers, one after the other, leave (2/3)^n of the places.

Reasons: docs/decisions/0040.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Hashable
from functools import lru_cache
from typing import Final, Generic, NamedTuple, TypeVar

__all__ = ["FRACTIONS", "Group", "GroupUsage", "Groups", "Shares", "groups_of"]

K = TypeVar("K", bound=Hashable)

FRACTIONS: Final = (1 / 8, 1 / 4, 1 / 2)
"""Fractions of the free places, narrowest group first. A group that is alone gets f / (1 + f) of
all places: an address a ninth, a site a fifth, a provider a third. A laboratory in one /24 needs
a fifth."""

_IPV4_BITS: Final = (32, 24, 16)
"""An address costs money. A /24 is the smallest network that is routed. Clouds hold /16s."""

_IPV6_BITS: Final = (56, 48, 32)
"""A customer gets at least a /56 (RFC 6177), a site or a tunnel user a /48, a provider a /32."""

_PRIVATE_IPV6_BITS: Final = (128, 64, 48)
"""In a private network all nodes often share one /64, so the address is the narrowest group."""

_IPV4_IN_IPV6: Final = (
    (bytes.fromhex("2002"), 2),  # 6to4 (RFC 3056), where one IPv4 address owns an IPv6 /48
    (bytes.fromhex("0064ff9b") + bytes(8), 12),  # NAT64 (RFC 6052)
    (bytes(10) + b"\xff\xff", 12),  # IPv4-mapped (RFC 4291, 2.5.5.2)
)


class Group(NamedTuple):
    """The entries that have one share together.

    ``fraction`` is a fraction of the free places, above 0; ``math.inf`` means no such limit.
    ``most`` is an absolute limit of places.
    """

    key: bytes
    fraction: float
    most: float = math.inf


Groups = tuple[Group, ...]


@lru_cache(maxsize=32_768)
def groups_of(packed: bytes) -> Groups:
    """Return the groups of an address, narrowest first.

    Private addresses count like public ones, because a private network has attackers too. The
    fractions are large enough for a laboratory in one network.

    Args:
        packed: an address in network byte order, 4 or 16 bytes.
    """
    for prefix, start in _IPV4_IN_IPV6:
        if len(packed) == 16 and packed.startswith(prefix):
            packed = packed[start : start + 4]
    if len(packed) == 4:
        widths = _IPV4_BITS
    elif ipaddress.IPv6Address(packed).is_private:
        widths = _PRIVATE_IPV6_BITS
    else:
        widths = _IPV6_BITS
    family = bytes((len(packed),))
    return tuple(
        # The length of the key gives the width, and its first byte the IP version.
        Group(family + packed[: bits // 8], fraction)
        for bits, fraction in zip(widths, FRACTIONS, strict=True)
    )


class GroupUsage:
    """Count the places that each group has taken.

    There is one number for each group that has places, so the owner's table bounds the size. Every
    operation takes constant time, except :meth:`rescale`.
    """

    def __init__(self, places: float) -> None:
        """Prepare; ``places`` is the amount that all groups together may take, in any unit."""
        self._places = places
        self._taken = 0.0
        self._by_group: dict[bytes, float] = {}

    def __len__(self) -> int:
        return len(self._by_group)

    def admits(self, groups: Groups, amount: float = 1.0) -> bool:
        """Tell whether there is room in total and for each of these groups.

        A group that holds less than the amount needs only free places. Otherwise a small table
        would admit nothing, because its fractions are below one place.
        """
        free = self._places - self._taken
        if amount > free:
            return False
        for key, fraction, most in groups:
            held = self._by_group.get(key, 0.0)
            if held >= amount and held + amount > min(fraction * free, most):
                return False
        return True

    def take(self, groups: Groups, amount: float = 1.0) -> None:
        """Record an amount that was admitted."""
        self._taken += amount
        for key, _, _ in groups:
            self._by_group[key] = self._by_group.get(key, 0.0) + amount

    def give_back(self, groups: Groups, amount: float = 1.0) -> None:
        """Record that an amount is free again."""
        self._taken -= amount
        for key, _, _ in groups:
            left = self._by_group[key] - amount
            if left > 0:
                self._by_group[key] = left
            else:
                del self._by_group[key]

    def resize(self, places: float) -> None:
        """Change the total; amounts that were taken stay."""
        self._places = places

    def rescale(self, factor: float, least: float) -> None:
        """Multiply all amounts, and remove groups that hold less than ``least`` afterwards.

        It takes time in proportion to the number of groups.
        """
        self._taken *= factor
        if self._taken < least:
            self._taken = 0.0  # otherwise a remainder would keep an amount of all places out
        scaled = ((key, held * factor) for key, held in self._by_group.items())
        self._by_group = {key: held for key, held in scaled if held >= least}


class Shares(Generic[K]):
    """Count the places of one table by group, at most ``places`` entries.

    The owner of the table asks before it adds an entry, and calls :meth:`discard` for each entry
    that it removes.
    """

    def __init__(self, places: int) -> None:
        self._ledger = GroupUsage(places)
        self._held: dict[K, Groups] = {}

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, key: object) -> bool:
        return key in self._held

    def admits(self, groups: Groups) -> bool:
        """Tell whether one more entry of these groups has room."""
        return self._ledger.admits(groups)

    def add(self, key: K, groups: Groups) -> None:
        """Record an entry that was admitted; it replaces another with the same key."""
        self.discard(key)
        self._held[key] = groups
        self._ledger.take(groups)

    def groups_of(self, key: K) -> Groups | None:
        """Return the groups of an entry, None if it has no place."""
        return self._held.get(key)

    def discard(self, key: K) -> None:
        """Free the place of an entry; an entry without a place is no error."""
        groups = self._held.pop(key, None)
        if groups is not None:
            self._ledger.give_back(groups)
