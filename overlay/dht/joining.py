"""Join the overlay: send rounds of greetings, with back-off, until one is answered.

A greeting is a PING. A round greets every bootstrap endpoint, whose node ids are not known yet,
and some random nodes that an earlier run knew. These are nodes whose descriptors are still valid
(seeds) and nodes that were reached once (hints). Hints get at least a quarter of each round. So a
restart needs no bootstrap peer, and no single peer determines which part of the overlay a node
sees. Requests from other nodes do not end the greetings. Otherwise an adversary that contacts the
node first could become its only contact.

Reasons: docs/decisions/0027.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from overlay.addresses import Endpoint, NodeId
from overlay.dht.settings import DhtSettings

__all__ = ["MAX_SEEDS", "Greeting", "Joining"]

MAX_SEEDS: Final = 4096


@dataclass(frozen=True, slots=True)
class Greeting:
    """A node to ping; ``node_id`` is None for a bootstrap endpoint."""

    endpoint: Endpoint
    node_id: NodeId | None


class Joining:
    """The nodes to greet, and the times of the rounds; at most 4,096 seeds and as many hints."""

    def __init__(self, settings: DhtSettings, rng: Random) -> None:
        self._settings = settings
        self._rng = rng
        self._bootstrap: tuple[Endpoint, ...] = ()
        self._seeds: list[Greeting] = []
        self._hints: list[Greeting] = []
        self._pending = 0
        self._answered = False
        self._patience = settings.bootstrap_retry_s
        self._next_round = math.inf

    def add_bootstrap(self, endpoints: Sequence[Endpoint], now: float) -> None:
        """Use these endpoints from the next round on, which is due at once."""
        self._bootstrap = tuple(dict.fromkeys([*self._bootstrap, *endpoints]))
        self.restart(now)

    def add_seeds(self, seeds: Sequence[Greeting], now: float) -> None:
        """Use a random sample of these known nodes as well."""
        self._seeds = self._sample([*self._seeds, *seeds], MAX_SEEDS)
        self.restart(now)

    def add_hints(self, hints: Sequence[Greeting], now: float) -> None:
        """Use a random sample of these as well: nodes that an earlier run reached, however old."""
        self._hints = self._sample([*self._hints, *hints], MAX_SEEDS)
        self.restart(now)

    def _sample(self, known: list[Greeting], at_most: int) -> list[Greeting]:
        return self._rng.sample(known, min(len(known), at_most))

    @property
    def _has_anybody(self) -> bool:
        return bool(self._bootstrap or self._seeds or self._hints)

    def restart(self, now: float) -> None:
        """Begin a round at once, unless there is no node to greet."""
        self._patience = self._settings.bootstrap_retry_s
        self._next_round = now if self._has_anybody else math.inf

    def retry(self, now: float) -> None:
        """Schedule a round after the back-off, unless there is no node to greet."""
        if not self._has_anybody:
            return
        self._next_round = now + self._patience * self._rng.uniform(0.8, 1.2)
        self._patience = min(2 * self._patience, self._settings.bootstrap_retry_max_s)

    def stop(self) -> None:
        """Begin no further round."""
        self._next_round = math.inf

    def next_deadline(self) -> float:
        """Return when the next round is due."""
        return self._next_round

    def round(self, now: float, own: Collection[Endpoint]) -> list[Greeting]:
        """Return the nodes to greet if a round is due, without our ``own`` endpoints."""
        if now < self._next_round:
            return []
        self._next_round, self._answered = math.inf, False
        places = self._settings.seeds_per_round
        for_hints = min(len(self._hints), max(places - len(self._seeds), -(-places // 4)))
        known = self._sample(self._seeds, places - for_hints) + self._sample(self._hints, for_hints)
        strangers = [Greeting(endpoint, None) for endpoint in self._bootstrap]
        greetings = [greeting for greeting in strangers + known if greeting.endpoint not in own]
        self._pending += len(greetings)
        return greetings

    def failed(self, now: float) -> None:
        """Process a greeting without an answer; after the last one, schedule the next round."""
        self._pending -= 1
        if self._pending == 0 and self._next_round == math.inf and not self._answered:
            self.retry(now)

    def answered(self) -> None:
        """Process an answered greeting, after which there is no further round."""
        self._pending -= 1
        self._answered = True
        self.stop()
