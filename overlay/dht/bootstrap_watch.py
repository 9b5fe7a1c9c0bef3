"""Decide when this node pings its bootstrap endpoints again while it is in the overlay.

A bootstrap node that is installed again has another key at the same address, and knows no other
node. Nodes that had joined through it would never contact it again. Nodes that join through it
later would form a second overlay. So the endpoints are pinged again, without a node id::

    answered by the same node as before    -> pauses from 1 minute, doubling up to 10 minutes
    answered by another node               -> it becomes a contact, and learns of the overlay
    no answer                              -> pauses from 1 s, doubling up to 1 minute

If a call to a contact at such an endpoint fails, it is pinged at once, because its node may have
changed.
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
    """Times of the next ping of each bootstrap endpoint in the configuration."""

    def __init__(self, settings: DhtSettings, rng: Random) -> None:
        self._settings = settings
        self._rng = rng
        self._watched: dict[Endpoint, _Watched] = {}
        self._active = False

    def add(self, endpoints: Iterable[Endpoint]) -> None:
        """Add endpoints."""
        for endpoint in endpoints:
            self._watched.setdefault(endpoint, _Watched(self._settings.bootstrap_retry_max_s))

    def begin(self, now: float) -> None:
        """Begin pings, because this node has joined, perhaps through only some of the endpoints."""
        self._active = True
        for watched in self._watched.values():
            watched.pause_s = self._settings.bootstrap_retry_s
            watched.due = now + self._jittered(watched.pause_s)

    def end(self) -> None:
        """End pings, because this node joins again or leaves."""
        self._active = False
        for watched in self._watched.values():
            watched.due = math.inf

    def hasten(self, endpoint: Endpoint, now: float) -> None:
        """Let an endpoint be pinged at once, because its node did not answer a call."""
        watched = self._watched.get(endpoint)
        if watched is not None and watched.due != math.inf:
            watched.due = now

    def next_deadline(self) -> float:
        """Return when the next endpoint is due."""
        return min((each.due for each in self._watched.values()), default=math.inf)

    def due(self, now: float, own: Collection[Endpoint]) -> list[Endpoint]:
        """Return the endpoints to ping now, except ``own`` ones.

        Each is due again only after :meth:`answered` or :meth:`silent`.
        """
        found = []
        for endpoint, watched in self._watched.items():
            if watched.due <= now:
                watched.due = math.inf
                if endpoint not in own:
                    found.append(endpoint)
        return found

    def answered(self, endpoint: Endpoint, node_id: NodeId, now: float) -> None:
        """Note which node answered at an endpoint."""
        watched = self._watched[endpoint]
        least = self._settings.bootstrap_retry_max_s
        longer = min(max(2 * watched.pause_s, least), max(_QUIET_S, least))
        watched.pause_s = longer if watched.node_id == node_id else least
        watched.node_id = node_id
        self._schedule(watched, now)

    def silent(self, endpoint: Endpoint, now: float) -> None:
        """Note that no node answered at an endpoint."""
        watched = self._watched[endpoint]
        first, most = self._settings.bootstrap_retry_s, self._settings.bootstrap_retry_max_s
        watched.pause_s = first if watched.pause_s > most else min(2 * watched.pause_s, most)
        self._schedule(watched, now)

    def _schedule(self, watched: _Watched, now: float) -> None:
        watched.due = now + self._jittered(watched.pause_s) if self._active else math.inf

    def _jittered(self, pause_s: float) -> float:
        return pause_s * self._rng.uniform(0.8, 1.2)
