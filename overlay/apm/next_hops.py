"""Neighbours to which circuits of others go on: as many as their sources may make us reach.

An onion names its next hop, so sources could make a node open every link that it may have. Then
its own paths would find no place. So what is bounded is the number of next hops of others, and
it stays below the number of links by what own paths and accepted links need.

Links that the node has for other reasons make no difference, neither to the count nor to who is
admitted. Else a neighbour that fills all places could ask which links a node has, and the
links of a source are its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from overlay.addresses import OverlayAddress
from overlay.apm.neighbour_shares import GroupsOf, NeighbourShares

__all__ = ["NextHops"]

_LINK_LASTS_S: Final = 75.0
"""After its last circuit a next hop counts for so long, because its link lasts a minute more."""

_SWEEP_S: Final = 5.0
"""How often next hops are looked for that no circuit needs, since that looks at all circuits."""


class NextHops:
    """Places for next hops of others, in shares of the neighbours that asked for them first.

    Bounded by ``places``; belongs to the relay side.
    """

    def __init__(
        self,
        places: int,
        groups: GroupsOf,
        in_use: Callable[[], Collection[OverlayAddress]],
    ) -> None:
        """Prepare.

        Args:
            places: next hops at the same time.
            groups: of the address of a neighbour's link.
            in_use: returns the next hops of all circuits of others.
        """
        self._shares: NeighbourShares[OverlayAddress] = NeighbourShares(places, places, groups)
        self._in_use = in_use
        self._unused_since: dict[OverlayAddress, float | None] = {}
        self._swept_at: float | None = None

    def __len__(self) -> int:
        return len(self._unused_since)

    def admits(self, next_hop: OverlayAddress, previous: OverlayAddress, now: float) -> bool:
        """Tell whether a circuit that came over the link of ``previous`` may go on there."""
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
