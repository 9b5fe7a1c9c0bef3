"""Draw the contents of routing tables when they are read, instead of storing them.

A node's bucket of depth d holds up to k of the nodes that share exactly d leading bits with it,
and a random choice if there are more. Lookups rarely read the same bucket twice, so a new draw at
each read does not change any mean. Some contacts have left and their holders have not noticed it;
``sims/vectorised/attention.py`` computes how many.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sims.vectorised.xor import Flags, Ids, Positions, common_prefix, smallest_subtree, subtree

__all__ = ["ABSENT", "Known", "Replies", "Staying", "Tables"]

Floats = npt.NDArray[np.float64]

ABSENT = np.uint64(0)
"""Stands for a missing contact. No node has this id."""

_ENOUGH = 2
"""Nodes around a target that are examined to find k contacts of a holder, in units of k."""

_DRAWN = 8
"""Draws from a large range, in units of k, so that at least k of them differ."""


class Staying(Protocol):
    """Probabilities that buckets hold a node: :class:`sims.vectorised.attention.Attention`."""

    def standing(self, depth: Positions, age_s: Floats, *, in_answers: bool) -> Floats:
        """Return the fraction of holders that keep a contact which left ``age_s`` ago."""
        ...

    def mute_standing(self, depth: Positions, deaf_share: Floats, *, in_answers: bool) -> Floats:
        """Return the fraction of holders that keep a contact which does not answer lookups."""
        ...

    def presence(self, depth: Positions, since: Floats) -> Floats:
        """Return the probability that a bucket of that depth holds a node, by its arrival."""
        ...


@dataclass(frozen=True, slots=True)
class Known:
    """The nodes that tables may hold, in the order of their ids.

    ``since`` is the time at which a node came on line. ``gone_s`` is the time in seconds since it
    left, or 0 if it is on line. ``mute`` is the probability that a node on line does not answer
    the first query of a lookup, ``deaf`` that it never answers one.
    """

    ids: Ids
    since: Floats
    gone_s: Floats
    mute: Floats
    deaf: Floats

    @classmethod
    def of(cls, live: Ids, gone: Ids) -> Known:
        """Return nodes of which all are known equally, on line or not."""
        ids = np.concatenate([live, gone])
        left = np.concatenate([np.zeros(len(live)), np.ones(len(gone))])
        order = np.argsort(ids, kind="stable")
        none = np.zeros(len(ids))
        return cls(ids[order], np.full(len(ids), -np.inf), left[order], none, none)


@dataclass(frozen=True, slots=True)
class Replies:
    """Contacts named in replies: shape (nodes, contacts), ``ABSENT`` for a missing one."""

    ids: Ids
    alive: Flags


class Tables:
    """The routing tables of an overlay at one moment.

    Args:
        known: the nodes that they may hold.
        k: capacity of a bucket.
        rng: draws contacts.
        staying: probabilities that buckets hold a node; None if they are all equal.
    """

    def __init__(
        self, known: Known, k: int, rng: np.random.Generator, staying: Staying | None = None
    ) -> None:
        self.k = k
        self._known, self._rng, self._staying = known, rng, staying

    def closest(self, holders: Ids, targets: Ids, *, own: bool = False) -> Replies:
        """Return the up to k contacts of each holder that are closest to its target.

        They are in the bucket at the target's side of the tree. If it has fewer than k, contacts of
        the buckets around it follow. With ``own`` the holder reads its table for itself. Otherwise
        it omits contacts that recently failed, as in answers to other nodes.
        """
        depth = common_prefix(holders, targets)
        low, high = subtree(self._known.ids, targets, np.minimum(depth + 1, 64))
        there = self._choose(low, high, depth, own=own)
        rows = np.flatnonzero((there < 0).any(axis=1))
        if len(rows):
            there[rows] = self._around(holders[rows], targets[rows], depth[rows], own=own)
        return self._replies(there)

    def bucket(self, holders: Ids, depth: int) -> Replies:
        """Return the contacts of each holder that share exactly ``depth`` leading bits with it."""
        others = holders ^ (np.uint64(1) << np.uint64(63 - depth))
        depths = np.full(len(holders), depth, np.int64)
        low, high = subtree(self._known.ids, others, depths + 1)
        return self._replies(self._choose(low, high, depths, own=True))

    def _replies(self, positions: Positions) -> Replies:
        known, there = self._known, positions >= 0
        ids = np.where(there, known.ids[positions], ABSENT)
        speaks = self._rng.random(positions.shape) >= known.mute[positions]
        return Replies(ids, there & (known.gone_s[positions] == 0) & speaks)

    def _choose(self, low: Positions, high: Positions, depth: Positions, *, own: bool) -> Positions:
        """Return up to k different positions of each range, padded with -1."""
        found, lots = self._drawn(low, high, depth, own=own)
        if found.shape[1] <= self.k:
            return _padded(found, self.k)
        kept = np.argpartition(lots, self.k - 1, axis=1)[:, : self.k]
        return np.take_along_axis(found, kept, axis=1)

    def _drawn(
        self, low: Positions, high: Positions, depth: Positions, *, own: bool
    ) -> tuple[Positions, Floats]:
        """Return different positions of each range (-1 for none), with a random lot for each.

        They are all known nodes there, or a random choice if there are more than eight times k.
        """
        size = (high - low)[:, None]
        width = int(min(_DRAWN * self.k, max(1, size.max(initial=1))))
        wide = size > width
        column = np.arange(width)
        drawn = (self._rng.random((len(low), width)) * size).astype(np.int64)
        drawn = np.where(wide, drawn, column)
        here = wide | (column < size)
        positions = np.where(here, low[:, None] + drawn, 0)
        if np.any(wide):
            positions, here = _distinct(positions, here)
        here, lots = self._lots(positions, here, depth[:, None], own=own)
        return np.where(here, positions, -1), lots

    def _lots(
        self, positions: Positions, here: Flags, depth: Positions, *, own: bool
    ) -> tuple[Flags, Floats]:
        """Remove contacts that the holder has removed; return random lots for the others.

        The contacts with the lowest lots enter the bucket.
        """
        lots = self._rng.standard_exponential(positions.shape)
        staying, known = self._staying, self._known
        if staying is not None:
            gone_s = known.gone_s[positions]
            depth = np.broadcast_to(depth, positions.shape)
            gone = np.nonzero(here & (gone_s > 0))
            stands = staying.standing(depth[gone], gone_s[gone], in_answers=not own)
            here[gone] = self._rng.random(len(stands)) < stands
            mute = np.nonzero(here & (known.deaf[positions] > 0))
            deaf = known.deaf[positions[mute]]
            stands = staying.mute_standing(depth[mute], deaf, in_answers=not own)
            here[mute] = self._rng.random(len(stands)) < stands
            lots /= np.maximum(staying.presence(depth, known.since[positions]), 1e-12)
        lots[~here] = np.inf
        return here, lots

    def _around(self, holders: Ids, targets: Ids, depth: Positions, *, own: bool) -> Positions:
        """Return the contacts closest to each target, from all buckets around it."""
        ids = self._known.ids
        enough = smallest_subtree(ids, targets, min(_ENOUGH * self.k, len(ids)))
        low, high = subtree(ids, targets, np.minimum(enough, depth))
        positions = low[:, None] + np.arange(int((high - low).max(initial=1)))
        here = positions < high[:, None]
        positions = np.where(here, positions, 0)
        here &= ids[positions] != holders[:, None]
        shared = common_prefix(np.broadcast_to(holders[:, None], positions.shape), ids[positions])
        here, lots = self._lots(positions, here, shared, own=own)
        here &= _first_of_each(shared, lots, self.k)
        far = np.iinfo(np.uint64).max
        distance = np.where(here, ids[positions] ^ targets[:, None], far)
        order = np.argsort(distance, axis=1, kind="stable")[:, : self.k]
        found = np.take_along_axis(np.where(here, positions, -1), order, axis=1)
        return _padded(found, self.k)


def _distinct(positions: Positions, here: Flags) -> tuple[Positions, Flags]:
    """Sort each row and remove repetitions."""
    order = np.argsort(positions, axis=1, kind="stable")
    positions = np.take_along_axis(positions, order, axis=1)
    here = np.take_along_axis(here, order, axis=1)
    here[:, 1:] &= (positions[:, 1:] != positions[:, :-1]) | ~here[:, :-1]
    return positions, here


def _first_of_each(group: Positions, lots: Floats, count: int) -> Flags:
    """Return which entries are among the ``count`` lowest lots of their group in their row."""
    order = np.lexsort((lots, group), axis=1)
    ordered = np.take_along_axis(group, order, axis=1)
    column = np.broadcast_to(np.arange(group.shape[1]), group.shape)
    begins = np.ones(group.shape, np.bool_)
    begins[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = np.maximum.accumulate(np.where(begins, column, 0), axis=1)
    kept = np.zeros(group.shape, np.bool_)
    np.put_along_axis(kept, order, column - first < count, axis=1)
    return kept


def _padded(found: Positions, width: int) -> Positions:
    if found.shape[1] >= width:
        return found
    filler = np.full((len(found), width - found.shape[1]), -1)
    return np.concatenate([found, filler], axis=1)
