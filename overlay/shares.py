"""Nested shares: what one address, one site and one provider may take of a bounded table.

Identities are free and addresses are not. An entry is admitted only if every group on its
way has room::

    IPv4   address (/32)   -> site (/24) -> provider (/16)
    IPv6   customer (/56)  -> site (/48) -> provider (/32)

A group may hold at most a fraction of the places that are *still free* (the dynamic
threshold of Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet
switches", 1998). A group that is alone therefore gets many places, and each attacking group
leaves room for the next newcomer: ``n`` providers, one after the other, leave (2/3)^n of
the places.

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
"""Of the free places, narrowest group first. Alone, a group gets f / (1 + f) of all places: an
address a ninth, a site a fifth and a provider a third. A laboratory in one /24 needs as much."""

_IPV4_BITS: Final = (32, 24, 16)
"""An address costs money; a /24 is the smallest network that is routed; clouds hold /16s."""

_IPV6_BITS: Final = (56, 48, 32)
"""A customer gets at least a /56 (RFC 6177), a site or a tunnel user a /48, a provider a /32."""

_PRIVATE_IPV6_BITS: Final = (128, 64, 48)
"""In a laboratory or private mesh all nodes often share one /64, so the address is a group."""

_IPV4_IN_IPV6: Final = (
    (bytes.fromhex("2002"), 2),  # 6to4 (RFC 3056): else one IPv4 address is a whole IPv6 site
    (bytes.fromhex("0064ff9b") + bytes(8), 12),  # NAT64 (RFC 6052)
    (bytes(10) + b"\xff\xff", 12),  # IPv4-mapped (RFC 4291, 2.5.5.2)
)


class Group(NamedTuple):
    """What shares a share.

    ``fraction`` is of the free places, above 0, and ``math.inf`` for no such bound; ``most``
    bounds the places absolutely.
    """

    key: bytes
    fraction: float
    most: float = math.inf


Groups = tuple[Group, ...]


@lru_cache(maxsize=32_768)
def groups_of(packed: bytes) -> Groups:
    """Return the groups of an address, narrowest first.

    Private addresses are counted as public ones are, because a private mesh has attackers
    too; the fractions leave room for a laboratory in one network.

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
        # The length of the key tells the width, and its first byte the family.
        Group(family + packed[: bits // 8], fraction)
        for bits, fraction in zip(widths, FRACTIONS, strict=True)
    )


class GroupUsage:
    """What each group has taken of a number of places.

    Holds one number for each group that has taken anything, so its owner bounds it. Every
    operation takes constant time.
    """

    def __init__(self, places: float) -> None:
        """Prepare; ``places`` is what all together may take, in any unit."""
        self._places = places
        self._taken = 0.0
        self._by_group: dict[bytes, float] = {}

    def __len__(self) -> int:
        return len(self._by_group)

    def admits(self, groups: Groups, amount: float = 1.0) -> bool:
        """Tell whether there is room in all, and for every one of these groups.

        A group that holds less than the amount may take what is free, or a small table would
        admit nothing.
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
        """Record what was admitted."""
        self._taken += amount
        for key, _, _ in groups:
            self._by_group[key] = self._by_group.get(key, 0.0) + amount

    def give_back(self, groups: Groups, amount: float = 1.0) -> None:
        """Record that what was taken is free again."""
        self._taken -= amount
        for key, _, _ in groups:
            left = self._by_group[key] - amount
            if left > 0:
                self._by_group[key] = left
            else:
                del self._by_group[key]

    def resize(self, places: float) -> None:
        """Change what all together may take; what is taken stays."""
        self._places = places

    def rescale(self, factor: float, least: float) -> None:
        """Multiply all that was taken; forget groups that hold less than ``least`` afterwards.

        Takes time in proportion to the number of groups.
        """
        self._taken *= factor
        if self._taken < least:
            self._taken = 0.0  # so that an amount of all places finds room again
        scaled = ((key, held * factor) for key, held in self._by_group.items())
        self._by_group = {key: held for key, held in scaled if held >= least}


class Shares(Generic[K]):
    """Who holds the places of one table, at most ``places`` entries.

    Belongs to the owner of that table, which asks before it adds and says what is gone.
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
        """Free the place of an entry; one that has none is no error."""
        groups = self._held.pop(key, None)
        if groups is not None:
            self._ledger.give_back(groups)
