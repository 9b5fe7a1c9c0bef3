"""The nodes on line, as three arrays for up to millions of nodes, and recently ended sessions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from sims.vectorised.xor import Flags, Ids, Positions
from sims.world.churn.session_models import SessionModel

__all__ = ["BEFORE", "Sessions", "VectorisedPopulation", "is_hostile"]

Floats = npt.NDArray[np.float64]

BEFORE: Final = -np.inf
"""Start of the sessions of nodes that were on line before the run began."""

_MOST_KEPT: Final = 2
"""Bound of remembered ended sessions, as a multiple of the population."""


_MODULUS: Final = 1_000_003


def is_hostile(ids: Ids, share: float) -> Flags:
    """Tell which ids belong to an adversary with that fraction; always the same ones."""
    hostile: Flags = ids % np.uint64(_MODULUS) < np.uint64(round(share * _MODULUS))
    return hostile


@dataclass(frozen=True, slots=True)
class Sessions:
    """Sessions in the order of ids, from ``since`` to ``until`` (infinity: on line now)."""

    ids: Ids
    since: Floats
    until: Floats

    def chosen(self, which: Flags | Positions) -> Sessions:
        """Return the chosen sessions, in the same order."""
        return Sessions(self.ids[which], self.since[which], self.until[which])


class VectorisedPopulation:
    """Nodes in an alternating renewal process that starts in equilibrium.

    If nodes never return (``SessionModel.off`` is None), a new node with a new id replaces a
    departed one at once, at the same index.

    Args:
        count: number of nodes, on line or not.
        sessions: distributions of sessions and absences.
        rng: draws ids and times.
        memory_s: time in seconds for which an ended session is remembered.
        always: number of nodes that are always on line.
    """

    def __init__(
        self,
        count: int,
        sessions: SessionModel,
        rng: np.random.Generator,
        *,
        memory_s: float = 0.0,
        always: int = 0,
    ) -> None:
        self.ids: Ids = rng.integers(1, 2**64, count, dtype=np.uint64)
        self.online: Flags = np.ones(count, np.bool_)
        self.online_since: Floats = np.full(count, BEFORE)
        self.joins = self.leaves = 0
        self._sessions, self._rng = sessions, rng
        self._memory_s, self._always = memory_s, always
        self._next: Floats = sessions.on.residuals(rng, count)
        permanent = rng.random(count) < sessions.permanent_share
        permanent[:always] = True
        if sessions.off is not None:
            on, off = sessions.on.mean(), sessions.off.mean()
            self.online = (rng.random(count) < on / (on + off)) | permanent
            self._next = np.where(self.online, self._next, sessions.off.residuals(rng, count))
        self._next[permanent] = np.inf
        self._ended: list[Sessions] = []

    def advance(self, now: float) -> None:
        """Process all events up to ``now`` (seconds from the start)."""
        while len(due := np.flatnonzero(self._next <= now)):
            left = due[self.online[due]]
            came = due[~self.online[due]]
            self.joins += len(came)
            self._leave(left)
            self.online[came] = True
            self.online_since[came] = self._next[came]
            self._next[came] += self._sessions.on.samples(self._rng, len(came))
        self._forget(now)

    def fail(self, share: float, now: float) -> None:
        """Let a fraction of the nodes on line fail for good, except nodes always on line."""
        online = self._always + np.flatnonzero(self.online[self._always :])
        victims = self._rng.choice(online, round(share * len(online)), replace=False)
        self.leaves += len(victims)
        self._remember(victims, np.full(len(victims), now))
        self.online[victims] = False
        self._next[victims] = np.inf

    def visited(self, ids: Ids, since: float, until: float) -> None:
        """Add sessions of nodes outside of the churn, on line from ``since`` to ``until``."""
        count = len(ids)
        if count:
            self._ended.append(Sessions(ids, np.full(count, since), np.full(count, until)))

    def live(self) -> Ids:
        """Return the sorted ids of the nodes on line."""
        return np.sort(self.ids[self.online])

    def sessions(self) -> Sessions:
        """Return the running sessions and the remembered ended ones, sorted by id.

        A node that returned has one entry per session.
        """
        online = np.flatnonzero(self.online)
        now = Sessions(self.ids[online], self.online_since[online], np.full(len(online), np.inf))
        parts = [now, *self._ended]
        return _ordered(
            Sessions(
                np.concatenate([part.ids for part in parts]),
                np.concatenate([part.since for part in parts]),
                np.concatenate([part.until for part in parts]),
            )
        )

    def _leave(self, nodes: Positions) -> None:
        self.leaves += len(nodes)
        when = self._next[nodes]
        self._remember(nodes, when)
        sessions = self._sessions
        if sessions.off is not None:
            self.online[nodes] = False
            self._next[nodes] += sessions.off.samples(self._rng, len(nodes))
            return
        self.joins += len(nodes)
        self.ids[nodes] = self._rng.integers(1, 2**64, len(nodes), dtype=np.uint64)
        self.online_since[nodes] = when
        self._next[nodes] += sessions.on.samples(self._rng, len(nodes))

    def _remember(self, nodes: Positions, when: Floats) -> None:
        if len(nodes) and self._memory_s > 0:
            ended = Sessions(self.ids[nodes].copy(), self.online_since[nodes].copy(), when.copy())
            self._ended.append(ended)

    def _forget(self, now: float) -> None:
        oldest = now - self._memory_s
        self._ended = [each for each in self._ended if each.until.max() > oldest]
        while sum(len(each.ids) for each in self._ended) > _MOST_KEPT * len(self.ids):
            del self._ended[0]


def _ordered(sessions: Sessions) -> Sessions:
    return sessions.chosen(np.argsort(sessions.ids, kind="stable"))
