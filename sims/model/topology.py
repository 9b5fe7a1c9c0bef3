"""Clients' Mix-nodes Topology Tables in the model: who was found when, and until when it is kept.

A client crawls the whole overlay every so often. It then knows whoever was on-line, and keeps
each descriptor until its signed expiry: a node that has left stays in the table for what is left
of that. So a table is full of the dead where sessions are short and validity is long.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sims.model.population import Population
from sims.model.xor import Ids

__all__ = ["TopologyTables"]

Floats = npt.NDArray[np.float64]


class TopologyTables:
    """The tables of a few clients, as ids with their expiry; bounded by who lived in a validity.

    Args:
        clients: how many.
        crawl_interval_s: pause between two crawls of one client.
        validity_s: how long a descriptor is valid from its signing.
        resign_s: how often an on-line node signs a new one.
        rng: staggers the crawls and draws ages of descriptors.
    """

    def __init__(
        self,
        clients: int,
        crawl_interval_s: float,
        validity_s: float,
        resign_s: float,
        rng: np.random.Generator,
    ) -> None:
        self._interval_s, self._validity_s, self._resign_s = crawl_interval_s, validity_s, resign_s
        self._rng = rng
        self._next = rng.random(clients) * crawl_interval_s
        self._known: list[Ids] = [np.array([], np.uint64) for _ in range(clients)]
        self._expires: list[Floats] = [np.array([]) for _ in range(clients)]

    def __len__(self) -> int:
        return len(self._known)

    def next_crawl(self) -> float:
        """Return when the next client crawls."""
        return float(self._next.min(initial=np.inf))

    def crawl(self, population: Population, now: float) -> None:
        """Let every client crawl that is due: it learns all that are on-line."""
        live: Ids | None = None
        for client in np.flatnonzero(self._next <= now):
            if live is None:
                live = population.live()
            self._next[client] += self._interval_s
            fresh = now - self._rng.random(len(live)) * self._resign_s + self._validity_s
            keep = self._expires[client] > now
            known = self._known[client][keep]
            older = ~np.isin(known, live, assume_unique=True, kind="sort")
            ids = np.concatenate([live, known[older]])
            order = np.argsort(ids, kind="stable")
            self._known[client] = ids[order]
            self._expires[client] = np.concatenate([fresh, self._expires[client][keep][older]])[
                order
            ]

    def table(self, client: int, now: float) -> Ids:
        """Return the sorted ids that a client holds unexpired."""
        held: Ids = self._known[client][self._expires[client] > now]
        return held
