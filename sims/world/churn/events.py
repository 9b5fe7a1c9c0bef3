"""Generate the events of churn in order of time, from a session model, a start and shocks.

Every node has a random stream of its own, which is seeded from the caller's in the order of the
nodes. So the sessions of one node do not depend on the events of others. Events at the same time
are ordered by node number. One pending event per node is kept in memory.

Nodes are numbered from 0. Nodes that come later get the following numbers.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from sims.world.churn.arrivals import Equilibrium, FlashCrowd, MassFailure, MassJoin, Shock, Start
from sims.world.churn.session_models import SessionModel

__all__ = ["ChurnEvent", "churn_events"]


class ChurnEvent(NamedTuple):
    """At ``time_s`` the node comes on line or goes off line."""

    time_s: float
    node: int
    online: bool


def churn_events(
    model: SessionModel,
    nodes: int,
    rng: Random,
    *,
    duration_s: float = math.inf,
    start: Start | None = None,
    shocks: Sequence[Shock] = (),
) -> Iterator[ChurnEvent]:
    """Yield every change between on line and off line up to ``duration_s``, in order of time.

    A node that is on line at the start has an event at time 0. The nodes of a mass failure are
    drawn from the nodes on line at that moment.

    Args:
        model: sessions and absences.
        nodes: number of nodes, on line or not.
        rng: the only source of randomness.
        duration_s: time of the last possible event.
        start: state at time zero; the default is :class:`Equilibrium`.
        shocks: events that affect many nodes.

    Raises:
        ValueError: ``nodes`` is less than 1.
    """
    if nodes < 1:
        raise ValueError(f"churn needs at least one node, not {nodes!r}")
    return _Population(model, nodes, rng, start or Equilibrium(), shocks).events(duration_s)


@dataclass(slots=True)
class _Life:
    rng: Random
    online: bool = False
    permanent: bool = False
    once: bool = False
    under_way: bool = False
    """Whether the first session began before the simulation."""
    epoch: int = 0
    """Number of changes. It shows that a pending event is void after a mass failure."""


class _Population:
    """All nodes and their pending events. It grows only if new nodes replace departed ones."""

    def __init__(
        self,
        model: SessionModel,
        nodes: int,
        rng: Random,
        start: Start,
        shocks: Sequence[Shock],
    ) -> None:
        self._model = model
        self._rng = rng
        self._lives: list[_Life] = []
        self._pending: list[tuple[float, int, int, bool]] = []
        self._failures = sorted(
            (shock for shock in shocks if isinstance(shock, MassFailure)),
            key=lambda failure: failure.at_s,
        )
        for _ in range(nodes):
            self._begin(start)
        for shock in shocks:
            if isinstance(shock, FlashCrowd):
                for _ in range(shock.nodes):
                    life = self._new_life(once=True)
                    self._plan(life, shock.at_s + life.rng.random() * shock.over_s, online=True)

    def events(self, duration_s: float) -> Iterator[ChurnEvent]:
        """Yield the events up to ``duration_s``."""
        while self._pending or self._failures:
            next_s = self._pending[0][0] if self._pending else math.inf
            if self._failures and self._failures[0].at_s <= next_s:
                failure = self._failures.pop(0)
                if failure.at_s <= duration_s:
                    yield from self._fail(failure)
                continue
            time_s, node, epoch, online = heapq.heappop(self._pending)
            if time_s > duration_s:
                return
            if epoch == self._lives[node].epoch:
                yield from self._change(time_s, node, online=online)

    def _begin(self, start: Start) -> None:
        life = self._new_life()
        if isinstance(start, MassJoin):
            self._plan(life, start.at_s + life.rng.random() * start.over_s, online=True)
            return
        off = self._model.off
        if life.permanent or life.rng.random() < self._moving_availability():
            life.under_way = True
            self._plan(life, 0.0, online=True)
        elif off is not None:
            self._plan(life, off.residual(life.rng), online=True)

    def _moving_availability(self) -> float:
        off = self._model.off
        if off is None:
            return 1.0
        mean = self._model.on.mean()
        return mean / (mean + off.mean())

    def _new_life(self, *, once: bool = False) -> _Life:
        life = _Life(Random(self._rng.getrandbits(128)), once=once)
        life.permanent = not once and life.rng.random() < self._model.permanent_share
        self._lives.append(life)
        return life

    def _plan(self, life: _Life, time_s: float, *, online: bool) -> None:
        node = len(self._lives) - 1
        heapq.heappush(self._pending, (time_s, node, life.epoch, online))

    def _push(self, node: int, time_s: float, *, online: bool) -> None:
        if math.isfinite(time_s):
            heapq.heappush(self._pending, (time_s, node, self._lives[node].epoch, online))

    def _change(self, time_s: float, node: int, *, online: bool) -> Iterator[ChurnEvent]:
        life = self._lives[node]
        life.online = online
        life.epoch += 1
        yield ChurnEvent(time_s, node, online)
        if online:
            self._push(node, time_s + self._session(life), online=False)
        elif self._model.off is not None and not life.once:
            self._push(node, time_s + self._model.off.sample(life.rng), online=True)
        elif not life.once:
            yield from self._replace(time_s)

    def _session(self, life: _Life) -> float:
        if life.permanent:
            return math.inf
        if life.under_way:
            life.under_way = False
            return self._model.on.residual(life.rng)
        return self._model.on.sample(life.rng)

    def _replace(self, time_s: float) -> Iterator[ChurnEvent]:
        """Add a new node with a new identity instead of a node that left for good."""
        life = self._new_life()
        life.permanent = False  # permanent nodes are on line from the start
        yield from self._change(time_s, len(self._lives) - 1, online=True)

    def _fail(self, failure: MassFailure) -> Iterator[ChurnEvent]:
        online = [node for node, life in enumerate(self._lives) if life.online]
        victims = self._rng.sample(online, round(failure.share * len(online)))
        for node in sorted(victims):
            life = self._lives[node]
            life.online = False
            life.epoch += 1
            yield ChurnEvent(failure.at_s, node, online=False)
