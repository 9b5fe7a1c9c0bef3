"""What routing tables hold, drawn when it is looked at instead of stored.

A node's k-bucket of depth d holds up to k of the nodes that share exactly d leading bits with it,
a random choice if there are more. A lookup passes each (node, bucket) pair rarely, so drawing the
choice anew each time changes no mean. Some of the nodes that tables hold are gone without the
holders having noticed; nobody answers there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sims.model.xor import Flags, Ids, Positions, common_prefix, subtree

__all__ = ["ABSENT", "Replies", "Tables", "bucket_fill"]

ABSENT = np.uint64(0)
"""In place of a contact that is not there; no node has this id."""


@dataclass(frozen=True, slots=True)
class Replies:
    """Contacts that nodes name: shape (nodes, contacts), ``ABSENT`` where there is none."""

    ids: Ids
    alive: Flags


class Tables:
    """The routing tables of the nodes in ``live``.

    Args:
        live: who is on-line; sorted ids.
        gone: who is not, but still stands in tables as often as those on-line; sorted ids.
        k: contacts in a bucket.
        rng: draws contacts.
    """

    def __init__(self, live: Ids, gone: Ids, k: int, rng: np.random.Generator) -> None:
        self.live = live
        self.k = k
        self._known = np.sort(np.concatenate([live, gone]))
        self._rng = rng

    def closest(self, holders: Ids, targets: Ids) -> Replies:
        """Return the up to k contacts of each holder that are closest to its target.

        Those are the bucket at the target's side of the tree, and, where that holds fewer than
        k, the holder's nearest neighbours on its own side.
        """
        depth = common_prefix(holders, targets)
        low, high = subtree(self._known, targets, np.minimum(depth + 1, 64))
        there = self._choose(low, high)
        missing = self.k - (there != ABSENT).sum(axis=1)
        rows = np.flatnonzero((missing > 0) & (depth < 64))
        if len(rows):
            there[rows] = self._completed(there[rows], holders[rows], targets[rows], depth[rows])
        return Replies(there, self._answers(there))

    def _answers(self, ids: Ids) -> Flags:
        position = np.searchsorted(self.live, ids)
        alive: Flags = self.live[np.minimum(position, len(self.live) - 1)] == ids
        return alive

    def _choose(self, low: Positions, high: Positions) -> Ids:
        """Return k random ids of each range, all of them if there are fewer."""
        size = (high - low)[:, None]
        wide = size > 8 * self.k
        width = int(min(8 * self.k, max(1, size.max(initial=1))))
        column = np.arange(width)
        drawn = (self._rng.random((len(low), width)) * size).astype(np.int64)
        positions = low[:, None] + np.where(wide, drawn, column)
        here = wide | (column < size)
        found = self._known[np.minimum(positions, len(self._known) - 1)]
        if width > self.k:
            found, here = self._thinned(found, here, wide)
        found = np.where(here, found, ABSENT)
        return _padded(found, self.k)

    def _thinned(self, found: Ids, here: Flags, wide: Flags) -> tuple[Ids, Flags]:
        """Keep k of each row, at random; where positions were drawn, any k distinct ones."""
        key = self._rng.random(found.shape)
        if np.any(wide):
            order = np.argsort(found, axis=1, kind="stable")
            ordered = np.take_along_axis(found, order, axis=1)
            again = np.zeros(found.shape, np.bool_)
            repeated = ordered[:, 1:] == ordered[:, :-1]
            np.put_along_axis(again, order[:, 1:], repeated, axis=1)
            here = here & ~(again & wide)
        key[~here] = 2.0
        kept = np.argpartition(key, self.k - 1, axis=1)[:, : self.k]
        return np.take_along_axis(found, kept, axis=1), np.take_along_axis(here, kept, axis=1)

    def _completed(self, there: Ids, holders: Ids, targets: Ids, depth: Positions) -> Ids:
        """Fill up with neighbours from the holder's own side, closest to the target first."""
        low, high = subtree(self._known, holders, np.minimum(depth + 1, 64))
        own_side = self._choose(low, high)
        own_side = np.where(own_side == holders[:, None], ABSENT, own_side)
        both = np.concatenate([there, own_side], axis=1)
        distance = np.where(both == ABSENT, np.iinfo(np.uint64).max, both ^ targets[:, None])
        order = np.argsort(distance, axis=1, kind="stable")[:, : self.k]
        completed: Ids = np.take_along_axis(both, order, axis=1)
        return completed


def bucket_fill(
    live: Ids, k: int, depths: range, rng: np.random.Generator, sample: int = 10_000
) -> npt.NDArray[np.float64]:
    """Return how many contacts a bucket of each depth holds in the mean (E[min(Bin, k)])."""
    holders = rng.choice(live, min(sample, len(live)), replace=False)
    fill = []
    for depth in depths:
        bit = np.uint64(1) << np.uint64(63 - depth)
        sibling = holders ^ bit
        low, high = subtree(live, sibling, np.full(len(holders), depth + 1, np.int64))
        fill.append(float(np.minimum(high - low, k).mean()))
    return np.array(fill)


def _padded(found: Ids, width: int) -> Ids:
    if found.shape[1] >= width:
        return found
    filler = np.full((len(found), width - found.shape[1]), ABSENT)
    return np.concatenate([found, filler], axis=1)
