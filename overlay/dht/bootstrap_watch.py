"""Asks the configured bootstrap endpoints again while this node is in the overlay.

A bootstrap node that is installed anew has another key at the same address and knows no other
node. Nodes that had joined through it would never speak to it again, and those that join through
it later would form an overlay of their own. So the endpoints are asked again, without a node id::

    answered by the same node as before    -> pauses from 1 minute, doubling up to 10 minutes
    answered by another node               -> it becomes a contact, and hears of the overlay
    silent                                 -> pauses from 1 s, doubling up to 1 minute

A failed call to a contact at such an endpoint asks at once, because its node may have changed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from random import Random
from typing import Final

from overlay.addresses import Endpoint, NodeId
from overlay.dht.settings import DhtSettings

__all__ = ["BootstrapWatch"]

_QUIET_S: Final = 600.0
"""Longest pause while the same node answers: 100,000 clients are 170 pings per second."""


@dataclass(slots=True)
class _Watched:
    pause_s: float
    due: float = math.inf
    node_id: NodeId | None = None


class BootstrapWatch:
    """When to ask each bootstrap endpoint again; as many as the configuration lists."""

    def __init__(self, settings: DhtSettings, rng: Random) -> None:
        self._settings = settings
        self._rng = rng
        self._watched: dict[Endpoint, _Watched] = {}
        self._active = False

    def add(self, endpoints: Iterable[Endpoint]) -> None:
        """Watch these endpoints, too."""
        for endpoint in endpoints:
            self._watched.setdefault(endpoint, _Watched(self._settings.bootstrap_retry_max_s))

    def begin(self, now: float) -> None:
        """Ask from now on: this node has joined, perhaps through some of the endpoints alone."""
        self._active = True
        for watched in self._watched.values():
            watched.pause_s = self._settings.bootstrap_retry_s
            watched.due = now + self._jittered(watched.pause_s)

    def end(self) -> None:
        """Ask no more: this node joins anew, or leaves."""
        self._active = False
        for watched in self._watched.values():
            watched.due = math.inf

    def hasten(self, endpoint: Endpoint, now: float) -> None:
        """Ask an endpoint at once whose node did not answer a call."""
        watched = self._watched.get(endpoint)
        if watched is not None and watched.due != math.inf:
            watched.due = now

    def next_deadline(self) -> float:
        """Return when the next endpoint is due."""
        return min((each.due for each in self._watched.values()), default=math.inf)

    def due(self, now: float, own: Collection[Endpoint]) -> list[Endpoint]:
        """Return the endpoints to ask now, never ``own`` ones; each waits for its answer."""
        found = []
        for endpoint, watched in self._watched.items():
            if watched.due <= now:
                watched.due = math.inf
                if endpoint not in own:
                    found.append(endpoint)
        return found

    def answered(self, endpoint: Endpoint, node_id: NodeId, now: float) -> None:
        """Learn which node answered at an endpoint."""
        watched = self._watched[endpoint]
        least = self._settings.bootstrap_retry_max_s
        longer = min(max(2 * watched.pause_s, least), max(_QUIET_S, least))
        watched.pause_s = longer if watched.node_id == node_id else least
        watched.node_id = node_id
        self._schedule(watched, now)

    def silent(self, endpoint: Endpoint, now: float) -> None:
        """Learn that no node answered at an endpoint."""
        watched = self._watched[endpoint]
        first, most = self._settings.bootstrap_retry_s, self._settings.bootstrap_retry_max_s
        watched.pause_s = first if watched.pause_s > most else min(2 * watched.pause_s, most)
        self._schedule(watched, now)

    def _schedule(self, watched: _Watched, now: float) -> None:
        watched.due = now + self._jittered(watched.pause_s) if self._active else math.inf

    def _jittered(self, pause_s: float) -> float:
        return pause_s * self._rng.uniform(0.8, 1.2)
