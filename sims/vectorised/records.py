"""Published records: the nodes that received them, and the nodes that still hold them.

A record is stored at the k nodes nearest to its key and at all nodes of its region, where k nodes
are expected (``overlay/dht/publishing.py``). A node that restarts has lost the records of others.
So a holder counts while it is on line in the same session.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from sims.vectorised.population import Sessions
from sims.vectorised.xor import Flags, Ids, Positions, smallest_subtree, subtree

__all__ = ["Holders", "holders_of"]

Floats = npt.NDArray[np.float64]

_NEIGHBOURS: Final = 4
"""Sessions around a key that are examined, as a multiple of k. Fewer came and went meanwhile."""

_SPACE: Final = 2.0**64


@dataclass(frozen=True, slots=True)
class Holders:
    """The holders of each record that are on line, with the shape (records, holders).

    ``there`` tells which entries of ``ids`` hold the record. ``rank`` is the position of each
    among all nodes on line by distance to the key, from 0.
    """

    ids: Ids
    there: Flags
    rank: Positions

    def among(self, candidates: Ids) -> Flags:
        """Return which candidates hold each record, with the shape (records, candidates)."""
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
    """Return the nodes that hold the records now.

    Args:
        sessions: all sessions since the first time of ``stored_at``.
        keys: the keys of the records.
        stored_at: the times at which each was stored, with shape (records, times); NaN for none.
        k: number of nearest nodes at which a record is stored.
        online: number of nodes, as publishers estimate it.
        region_known_at: times from which each publisher knows its region. Before, it stores only at
            the k nearest nodes.
        unheard: sessions of nodes that no lookup finds, so that no record is stored there.
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
