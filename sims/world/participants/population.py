"""Switch machines on and off according to the churn and the shocks of a scenario."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from random import Random
from typing import Final

from sims.scenario.scenario import Scenario
from sims.world.churn import (
    ChurnEvent,
    FlashCrowd,
    MassFailure,
    MassJoin,
    SessionModel,
    churn_events,
    parse_model,
)
from sims.world.churn.arrivals import Shock
from sims.world.participants.machine import Machine
from sims.world.participants.protocols import ScheduledPopulation
from sims.world.participants.world import START, World

__all__ = ["ScenarioPopulation", "session_model"]

_DECIMALS: Final = 6
"""Times are rounded to microseconds, because the last bits of logarithms depend on the machine."""


def session_model(scenario: Scenario) -> SessionModel:
    """Return the session model of a scenario.

    Raises:
        ConfigurationError: there is no such model, or its numbers or its trace are wrong.
    """
    return parse_model(scenario.churn.model)


class ScenarioPopulation(ScheduledPopulation):
    """The nodes of a scenario. The first ``clients`` never leave. The bootstrap peer is extra."""

    def __init__(self, world: World, scenario: Scenario) -> None:
        self._world = world
        self._scenario = scenario
        self._adversaries = world.streams.stream("adversaries")
        self.rendezvous = world.add()
        world.bootstrap = (self.rendezvous.endpoint,)
        self._nodes = [self._new() for _ in range(scenario.nodes)]
        for machine in self.clients:
            machine.is_client = machine.honest = True
        self._events = self._churn(world.streams.stream("churn"))
        self._next: ChurnEvent | None = None

    @property
    def clients(self) -> list[Machine]:
        """The machines that keep paths open."""
        return self._nodes[: self._scenario.circuits.clients]

    def is_newcomer(self, machine: Machine) -> bool:
        """Tell whether a machine was added during the run."""
        return machine.index > self._scenario.nodes

    def crawls(self, machine: Machine) -> bool:
        """Tell whether the node of a machine crawls: that of a client, or all nodes."""
        return machine.is_client or self._scenario.crawls == "all"

    def begin(self) -> None:
        """Start the nodes that are on line at the start as members, and schedule the events."""
        resumed = [self.rendezvous, *self.clients]
        for event in self._events:
            if event.time_s > 0:
                self._plan(event)
                break
            resumed.append(self._node(event.node))
        self._world.resume(resumed)
        for machine in resumed:
            self._world.on_switch(machine, online=True, seen_whole=False)

    def _plan(self, event: ChurnEvent) -> None:
        when = START + round(event.time_s, _DECIMALS)
        self._world.heap.at(when, self._happen, event)

    def _happen(self, event: ChurnEvent, _: object) -> None:
        machine = self._node(event.node)
        if event.online:
            self._world.on_switch(machine, online=True, seen_whole=True)
            self._world.start(machine)
        else:
            self._world.stop(machine)
            self._world.on_switch(machine, online=False, seen_whole=True)
        following = next(self._events, None)
        if following is not None:
            self._plan(following)

    def _node(self, number: int) -> Machine:
        while number >= len(self._nodes):
            self._nodes.append(self._new())
        return self._nodes[number]

    def _new(self) -> Machine:
        hostile = self._adversaries.random() < self._scenario.adversary.share
        return self._world.add(honest=not hostile)

    def _churn(self, rng: Random) -> Iterator[ChurnEvent]:
        """Merge the events of nodes that start at once with those of nodes held back."""
        scenario, arrival = self._scenario, self._scenario.arrival
        model = session_model(scenario)
        at_s = scenario.warm_up_s + arrival.at_s
        share, lasts_s = arrival.share or 0.0, arrival.lasts_s or 0.0
        first = scenario.circuits.clients
        churning = scenario.nodes - first
        held = round(share * churning) if arrival.kind == "mass-join" else 0
        shocks: list[Shock] = []
        if arrival.kind == "mass-failure":
            shocks.append(MassFailure(at_s, share))
        if arrival.kind == "flash-crowd":
            shocks.append(FlashCrowd(at_s, max(1, round(share * scenario.nodes)), lasts_s))
        groups: tuple[tuple[int, MassJoin | None, list[Shock]], ...] = (
            (churning - held, None, shocks),
            (held, MassJoin(at_s, lasts_s), []),
        )
        lives = []
        for number, (count, start, shaken) in enumerate(groups):
            if count:
                events = churn_events(
                    model, count, rng, duration_s=scenario.total_s, start=start, shocks=shaken
                )
                newcomers = scenario.nodes + number
                lives.append(_numbered(events, first, count, newcomers, len(groups)))
                first += count
        return heapq.merge(*lives)


def _numbered(
    events: Iterator[ChurnEvent], first: int, count: int, newcomers: int, step: int
) -> Iterator[ChurnEvent]:
    """Number the nodes of a group after its offset, and nodes added later uniquely."""
    for event in events:
        inside = event.node < count
        node = first + event.node if inside else newcomers + step * (event.node - count)
        yield event._replace(node=node)
