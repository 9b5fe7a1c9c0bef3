"""Limit the number of next hops of circuits that this node relays for other nodes.

An onion names its next hop, so sources could make a relay open links until it reaches its limit.
Then its own paths would get no link. So the number of next hops is limited, and the limit leaves
room for the links of own paths and for accepted links.

Links that exist for other reasons change neither the count nor the decision. Otherwise a neighbour
that fills all places could find out which links a node has, and some belong to its own paths.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from overlay.addresses import OverlayAddress
from overlay.apm.neighbour_shares import GroupsOf, NeighbourShares

__all__ = ["NextHops"]

_LINK_LASTS_S: Final = 75.0
"""Time for which a next hop counts after its last circuit, because its link lasts a minute more."""

_SWEEP_S: Final = 5.0
"""Shortest interval between two searches for unused next hops; each one reads all circuits."""


class NextHops:
    """At most ``places`` next hops; each counts for the neighbour that requested it first."""

    def __init__(
        self,
        places: int,
        groups: GroupsOf,
        in_use: Callable[[], Collection[OverlayAddress]],
    ) -> None:
        """Create an empty table.

        Args:
            places: largest number of next hops at the same time.
            groups: returns the groups of the address of a neighbour's link.
            in_use: returns the next hops of all circuits of other nodes.
        """
        self._shares: NeighbourShares[OverlayAddress] = NeighbourShares(places, places, groups)
        self._in_use = in_use
        self._unused_since: dict[OverlayAddress, float | None] = {}
        self._swept_at: float | None = None

    def __len__(self) -> int:
        return len(self._unused_since)

    def admits(self, next_hop: OverlayAddress, previous: OverlayAddress, now: float) -> bool:
        """Tell whether a circuit from the neighbour ``previous`` may use this next hop."""
        if next_hop in self._unused_since:
            return True
        if self._swept_at is None or not 0 <= now - self._swept_at < _SWEEP_S:
            self._sweep(now)
        return self._shares.admits(previous)

    def add(self, next_hop: OverlayAddress, previous: OverlayAddress) -> None:
        """Record the next hop of a circuit that was admitted."""
        if next_hop not in self._unused_since:
            self._shares.add(next_hop, previous)
        self._unused_since[next_hop] = None

    def _sweep(self, now: float) -> None:
        self._swept_at = now
        in_use = self._in_use()
        for next_hop, since in list(self._unused_since.items()):
            if next_hop in in_use:
                self._unused_since[next_hop] = None
            elif since is None:
                self._unused_since[next_hop] = now
            elif now - since >= _LINK_LASTS_S:
                del self._unused_since[next_hop]
                self._shares.discard(next_hop)
