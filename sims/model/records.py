"""Published records: who was given them, and who of those still has them.

A record is stored with the k nodes nearest to its key and with all in its region, where k are
expected (``overlay/dht/publishing.py``). A node that restarts has lost what it held for others, so
a holder counts as long as it is on-line in the same session.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from sims.model.population import Sessions
from sims.model.xor import Flags, Ids, Positions, smallest_subtree, subtree

__all__ = ["Holders", "holders_of"]

Floats = npt.NDArray[np.float64]

_NEIGHBOURS: Final = 4
"""How many times k sessions around a key are looked at: more than came and went since."""

_SPACE: Final = 2.0**64


@dataclass(frozen=True, slots=True)
class Holders:
    """Holders of each record that are on-line: shape (records, holders).

    ``there`` tells which entries of ``ids`` hold the record; ``rank`` is each one's place among
    those on-line by distance to the key, the nearest 0.
    """

    ids: Ids
    there: Flags
    rank: Positions

    def among(self, candidates: Ids) -> Flags:
        """Return which of some nodes for each record hold it: shape (records, candidates)."""
        same = candidates[:, :, None] == self.ids[:, None, :]
        held: Flags = (same & self.there[:, None, :]).any(axis=2)
        return held


def holders_of(
    sessions: Sessions,
    keys: Ids,
    stored_at: Floats,
    k: int,
    online: int,
    region_known_at: Floats,
    unheard: Flags | None = None,
) -> Holders:
    """Return who holds records now.

    Args:
        sessions: everybody who was on-line since the first time of ``stored_at``.
        keys: of the records.
        stored_at: when each was stored, NaN where not: (records, times).
        k: how many nearest nodes it is stored with.
        online: how many nodes there are, as publishers estimate it.
        region_known_at: from when on each publisher knows the region: before it stores with the
            k nearest alone.
        unheard: whose sessions these are to whom nobody stores, as no lookup finds them.
    """
    near = _around(sessions, keys, _NEIGHBOURS * k)
    there = (near >= 0) & (sessions.ids[near] != keys[:, None])
    distance = np.where(there, sessions.ids[near] ^ keys[:, None], np.iinfo(np.uint64).max)
    order = np.argsort(distance, axis=1, kind="stable")
    near, there, distance = (
        np.take_along_axis(each, order, axis=1) for each in (near, there, distance)
    )
    since, until = sessions.since[near], sessions.until[near]
    in_reach = distance < np.uint64(min(k / max(online, 1), 0.99) * _SPACE)
    given = np.zeros(near.shape, np.bool_)
    deaf = np.zeros(near.shape, np.bool_) if unheard is None else unheard[near]
    for when in stored_at.T[:, :, None]:
        with np.errstate(invalid="ignore"):
            was_there = there & ~deaf & (since <= when) & (until > when)
        among_nearest = np.cumsum(was_there, axis=1) <= k
        given |= was_there & (among_nearest | (in_reach & (region_known_at[:, None] <= when)))
    is_there = there & np.isinf(until)
    rank = np.cumsum(is_there, axis=1) - 1
    given &= is_there
    return Holders(sessions.ids[near], given, rank)


def _around(sessions: Sessions, keys: Ids, count: int) -> Positions:
    """Return the positions of the at least ``count`` sessions nearest to each key, -1 beside."""
    depth = smallest_subtree(sessions.ids, keys, min(count, len(sessions.ids)))
    low, high = subtree(sessions.ids, keys, depth)
    positions = low[:, None] + np.arange(int((high - low).max(initial=0)))
    return np.where(positions < high[:, None], positions, -1)
