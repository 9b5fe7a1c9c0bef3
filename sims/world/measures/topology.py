"""Measure the topology tables and paths of clients with knowledge of the whole overlay."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Final

from sims.world.participants.protocols import WatchedClient
from sims.world.participants.recorder import Recorder

__all__ = ["TopologyMeasure"]

_MAX_PAIRS: Final = 45


class TopologyMeasure:
    """Measure coverage, departed relays, the adversary's fraction, overlap and working paths."""

    def __init__(self, recorder: Recorder, clients: Sequence[WatchedClient]) -> None:
        self._recorder = recorder
        self._clients = clients

    def sample(self) -> None:
        """Record the means over clients; the overlap is a mean over pairs of clients."""
        if not self._clients:
            return
        world = self._recorder.world
        live = set(world.alive)
        hostile = sum(not world.by_number[number].honest for number in live) / max(len(live), 1)
        coverage, staleness, ratio = [], [], []
        tables = [client.table_numbers for client in self._clients]
        for client, table in zip(self._clients, tables, strict=True):
            others = live - {client.machine.number}
            coverage.append(len(table & others) / max(len(others), 1))
            if table:
                staleness.append(len(table - live) / len(table))
                bad = sum(not world.by_number[number].honest for number in table) / len(table)
                if hostile:
                    ratio.append(bad / hostile)
        self._mean("mtt_coverage", coverage)
        self._mean("mtt_staleness", staleness)
        self._mean("mtt_adversary_ratio", ratio)
        pairs = list(combinations(tables, 2))[:_MAX_PAIRS]
        self._mean("mtt_overlap", [len(a & b) / len(a | b) for a, b in pairs if a | b])
        self._mean("path_available", [float(client.works) for client in self._clients])

    def _mean(self, metric: str, values: Sequence[float]) -> None:
        if values:
            self._recorder.add(metric, sum(values) / len(values))
