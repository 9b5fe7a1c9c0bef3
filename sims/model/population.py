"""Who is on-line: a million nodes that come and go, as three arrays."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from sims.churn.models import SessionModel
from sims.model.xor import Flags, Ids

__all__ = ["Population"]

Floats = npt.NDArray[np.float64]

_FORGOTTEN_AFTER: Final = 12.0
"""In units of the mean time to forget: exp(-12) of the departures would still be remembered."""


class Population:
    """Nodes in an alternating renewal process, in equilibrium from the start.

    A node that never returns (``SessionModel.off`` is None) is replaced at once by a newcomer
    with an id of its own, in the same place of the arrays.

    Args:
        count: nodes in all, on-line or not.
        sessions: how long they stay and stay away.
        rng: draws ids and times.
    """

    def __init__(self, count: int, sessions: SessionModel, rng: np.random.Generator) -> None:
        self.ids: Ids = rng.integers(1, 2**64, count, dtype=np.uint64)
        self.online: Flags = np.ones(count, np.bool_)
        self.online_since: Floats = np.full(count, -np.inf)
        self.joins = self.leaves = 0
        self._sessions, self._rng = sessions, rng
        self._next: Floats = sessions.on.residuals(rng, count)
        permanent = rng.random(count) < sessions.permanent_share
        if sessions.off is not None:
            on, off = sessions.on.mean(), sessions.off.mean()
            self.online = (rng.random(count) < on / (on + off)) | permanent
            self._next = np.where(self.online, self._next, sessions.off.residuals(rng, count))
        self._next[permanent] = np.inf
        self._departed: list[tuple[float, Ids, Floats]] = []

    def advance(self, now: float) -> None:
        """Let everything happen that happens up to ``now`` (seconds from the start)."""
        while len(due := np.flatnonzero(self._next <= now)):
            left = due[self.online[due]]
            came = due[~self.online[due]]
            self.joins += len(came)
            self._leave(left)
            self.online[came] = True
            self.online_since[came] = self._next[came]
            self._next[came] += self._sessions.on.samples(self._rng, len(came))

    def fail(self, share: float, now: float) -> None:
        """Let a share of those on-line stop without a word, for good."""
        online = np.flatnonzero(self.online)
        victims = self._rng.choice(online, round(share * len(online)), replace=False)
        self.leaves += len(victims)
        self._note_departures(victims, np.full(len(victims), now))
        self.online[victims] = False
        self._next[victims] = np.inf

    def live(self) -> Ids:
        """Return the sorted ids of those on-line."""
        return np.sort(self.ids[self.online])

    def remembered(self, now: float, notice_s: float) -> Ids:
        """Return the sorted ids of who left and still stands in tables.

        A departure goes unnoticed for a time that is exponentially distributed with the mean
        ``notice_s``; who returned with its old id does not count.
        """
        oldest = now - _FORGOTTEN_AFTER * notice_s
        self._departed = [each for each in self._departed if each[0] > oldest]
        if not self._departed:
            return self.ids[:0]
        ids = np.concatenate([ids for _, ids, _ in self._departed])
        age = now - np.concatenate([times for _, _, times in self._departed])
        unnoticed = self._rng.random(len(ids)) < np.exp(-age / notice_s)
        return np.setdiff1d(ids[unnoticed], self.ids[self.online])

    def _leave(self, nodes: npt.NDArray[np.int64]) -> None:
        self.leaves += len(nodes)
        when = self._next[nodes]
        self._note_departures(nodes, when)
        sessions = self._sessions
        if sessions.off is not None:
            self.online[nodes] = False
            self._next[nodes] += sessions.off.samples(self._rng, len(nodes))
            return
        self.joins += len(nodes)
        self.ids[nodes] = self._rng.integers(1, 2**64, len(nodes), dtype=np.uint64)
        self.online_since[nodes] = when
        self._next[nodes] += sessions.on.samples(self._rng, len(nodes))

    def _note_departures(self, nodes: npt.NDArray[np.int64], when: Floats) -> None:
        if len(nodes):
            self._departed.append((float(when.max()), self.ids[nodes].copy(), when.copy()))
