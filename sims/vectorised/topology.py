"""The Mix-nodes Topology Tables of clients in the model: which nodes were found, and their expiry.

A client crawls the whole overlay at intervals. A crawl finds all nodes on line. It also finds nodes
that left recently, because tables still name them and other nodes store their descriptors. The
client keeps a descriptor until it expires. So if sessions are short compared with the validity,
many entries belong to departed nodes. Paths use only nodes that answered the last crawl.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from overlay.dht.schedule import JITTER
from overlay.dht.settings import DhtSettings
from overlay.dht.topology_table import MAX_ENTRIES
from overlay.dht.upkeep import FIRST_CRAWL_WITHIN_S
from sims.vectorised.habits import crawl_pause_s
from sims.vectorised.population import VectorisedPopulation, is_hostile
from sims.vectorised.schedule import LASTS_S, signed_at
from sims.vectorised.xor import Flags, Ids

__all__ = ["TopologyTables"]

Floats = npt.NDArray[np.float64]


@dataclass(slots=True)
class _Table:
    """Sorted ids with their expiry times, and which of them answered the last crawl."""

    ids: Ids
    expires: Floats
    heard: Flags


class TopologyTables:
    """The tables of a few clients, as ids with their expiry.

    Their size is limited by the nodes that were on line within the validity of a descriptor.

    Args:
        clients: number of clients.
        settings: has the pauses between crawls.
        rng: draws the phases of the crawls.
    """

    def __init__(self, clients: int, settings: DhtSettings, rng: np.random.Generator) -> None:
        self._settings, self._most = settings, settings.crawl_max_nodes
        self._rng = rng
        self._next = rng.random(clients) * FIRST_CRAWL_WITHIN_S
        nobody = _Table(np.array([], np.uint64), np.array([]), np.array([], np.bool_))
        self._tables = [nobody] * clients

    def __len__(self) -> int:
        return len(self._tables)

    def next_crawl(self) -> float:
        """Return the time of the next crawl of any client."""
        return float(self._next.min(initial=np.inf))

    def crawl(
        self, population: VectorisedPopulation, now: float, lingers_s: float, hostile_share: float
    ) -> None:
        """Make the crawls that are due.

        Args:
            population: the nodes that can be found.
            now: seconds from the start of the run.
            lingers_s: time in seconds for which tables still name a departed node.
            hostile_share: fraction of nodes that do not return their own descriptor.
        """
        due = np.flatnonzero(self._next <= now)
        if not len(due):
            return
        sessions = population.sessions()
        sessions = sessions.chosen(sessions.until > now - lingers_s)
        # If a node has several sessions, the last one counts.
        sessions = sessions.chosen(np.lexsort((sessions.until, sessions.ids)))
        newest = np.concatenate([sessions.ids[1:] != sessions.ids[:-1], [True]])
        sessions = sessions.chosen(newest[: len(sessions.ids)])
        heard = np.isinf(sessions.until) & ~is_hostile(sessions.ids, hostile_share)
        expires = signed_at(sessions.since, np.minimum(sessions.until, now)) + LASTS_S
        everybody = _Table(sessions.ids, expires, heard)
        mean_pause_s = crawl_pause_s(self._settings, len(sessions.ids))
        for client in due:
            pause_s = mean_pause_s * self._rng.uniform(1 - JITTER, 1 + JITTER)
            self._next[client] = now + pause_s
            old, found = self._tables[client], self._found(everybody)
            # If a crawl did not ask all nodes, it does not tell which nodes are silent.
            silent = found is everybody
            old = _Table(old.ids, old.expires, old.heard & (not silent))
            self._tables[client] = _merged(old, found, now)

    def _found(self, everybody: _Table) -> _Table:
        """Return the nodes that one crawl finds: all, or a random part if the limit is exceeded."""
        count = len(everybody.ids)
        if count <= self._most:
            return everybody
        some = np.sort(self._rng.choice(count, self._most, replace=False))
        unasked = np.ones(self._most, np.bool_)
        return _Table(everybody.ids[some], everybody.expires[some], unasked)

    def table(self, client: int, now: float) -> Ids:
        """Return the sorted ids of a client's unexpired entries."""
        table = self._tables[client]
        held: Ids = table.ids[table.expires > now]
        return held

    def eligible(self, client: int, now: float) -> Ids:
        """Return the sorted ids that paths are drawn from: nodes that answered recently."""
        table = self._tables[client]
        chosen: Ids = table.ids[table.heard & (table.expires > now)]
        return chosen


def _merged(old: _Table, new: _Table, now: float) -> _Table:
    """Return a client's table after a crawl, in which new entries replace older ones.

    A full table keeps its nodes and adds new ones only while there are free places.
    """
    valid = old.expires > now
    kept = valid & ~np.isin(old.ids, new.ids, assume_unique=True, kind="sort")
    newcomer = ~np.isin(new.ids, old.ids[valid], assume_unique=True, kind="sort")
    room = max(0, MAX_ENTRIES - int(valid.sum()))
    taken = ~newcomer | (np.cumsum(newcomer) <= room)
    ids = np.concatenate([new.ids[taken], old.ids[kept]])
    order = np.argsort(ids, kind="stable")
    return _Table(
        ids[order],
        np.concatenate([new.expires[taken], old.expires[kept]])[order],
        np.concatenate([new.heard[taken], old.heard[kept]])[order],
    )
