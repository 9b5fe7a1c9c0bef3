"""Who is on-line: a million nodes that come and go, as three arrays."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from sims.model.xor import Flags, Ids

__all__ = ["Durations", "Population"]

Floats = npt.NDArray[np.float64]


class Durations(Protocol):
    """How long nodes stay, or stay away: draws seconds."""

    def sample_array(self, rng: np.random.Generator, count: int) -> Floats:
        """Return whole periods."""
        ...

    def residual_array(self, rng: np.random.Generator, count: int) -> Floats:
        """Return what is left of periods that are met at a random moment."""
        ...


class Population:
    """Nodes with fixed ids in an alternating renewal process, in equilibrium from the start.

    Args:
        count: nodes in all, on-line or not.
        online: how long a node stays.
        offline: how long it stays away.
        availability: share of nodes that are on-line.
        rng: draws ids and times.
    """

    def __init__(
        self,
        count: int,
        online: Durations,
        offline: Durations,
        availability: float,
        rng: np.random.Generator,
    ) -> None:
        self.ids: Ids = np.sort(rng.integers(1, 2**64, count, dtype=np.uint64))
        self.online: Flags = rng.random(count) < availability
        self.since: Floats = np.full(count, -np.inf)
        self.joins = self.leaves = 0
        self._rng = rng
        self._on, self._off = online, offline
        self._next = np.where(
            self.online, online.residual_array(rng, count), offline.residual_array(rng, count)
        )

    def advance(self, now: float) -> None:
        """Let everything happen that happens up to ``now`` (seconds from the start)."""
        while len(due := np.flatnonzero(self._next <= now)):
            left = self.online[due]
            self.leaves += int(left.sum())
            self.joins += int((~left).sum())
            self.since[due] = self._next[due]
            self.online[due] = ~left
            periods = np.where(
                left,
                self._off.sample_array(self._rng, len(due)),
                self._on.sample_array(self._rng, len(due)),
            )
            self._next[due] += periods

    def live(self) -> Ids:
        """Return the sorted ids of those on-line."""
        return self.ids[self.online]

    def remembered(self, now: float, notice_s: float) -> Ids:
        """Return who left and still stands in tables, if that ends after ``notice_s`` in the mean.

        Each departure is forgotten after a time of its own, exponentially distributed.
        """
        if notice_s <= 0:
            return self.ids[:0]
        age = now - self.since
        lingering = ~self.online & (self._rng.random(len(age)) < np.exp(-age / notice_s))
        return self.ids[lingering]
