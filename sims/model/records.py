"""Published records and how long somebody holds them, if nobody publishes them again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sims.model.population import Population
from sims.model.xor import closest

__all__ = ["Records"]


@dataclass(frozen=True, slots=True)
class Records:
    """Where each record was stored: places of the population's arrays, and its session there.

    A node that restarts has lost what it held for others, so a holder counts as long as it
    is on-line in the same session.
    """

    _places: npt.NDArray[np.int64]
    _sessions: npt.NDArray[np.float64]

    @classmethod
    def stored(
        cls, population: Population, count: int, k: int, rng: np.random.Generator
    ) -> Records:
        """Store ``count`` records under random keys with the k closest that are on-line."""
        keys = rng.integers(0, 2**64, count, dtype=np.uint64)
        holders = closest(population.live(), keys, k)
        order = np.argsort(population.ids, kind="stable")
        places = order[np.searchsorted(population.ids, holders, sorter=order)]
        return cls(places, population.online_since[places])

    def holders(self, population: Population) -> npt.NDArray[np.int64]:
        """Return how many of its first holders still have each record."""
        same = population.online_since[self._places] == self._sessions
        held: npt.NDArray[np.int64] = (population.online[self._places] & same).sum(axis=1)
        return held
