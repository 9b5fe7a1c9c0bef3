"""Shocks to the network and to the bootstrap peer."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from sims.scenario.scenario import Scenario
from sims.world.participants.protocols import ScheduledPopulation
from sims.world.participants.world import START, World

__all__ = ["Shocks"]


class Shocks:
    """Partition and repair the network, or stop the bootstrap peer, at the times of a scenario.

    ``ScenarioPopulation`` handles mass joins, mass failures and flash crowds. ``healed_at_s`` is
    the time from which recovery counts: the end of a partition, or the time of any other shock.
    It is None if the scenario has no shock.
    """

    def __init__(
        self, world: World, population: ScheduledPopulation, scenario: Scenario, rng: Random
    ) -> None:
        self._world = world
        self._population = population
        self._rng = rng
        arrival = scenario.arrival
        self.at_s = scenario.warm_up_s + arrival.at_s
        lasts_s = (arrival.lasts_s or 0.0) if arrival.kind == "partition" else 0.0
        shaken = arrival.kind != "equilibrium"
        self.healed_at_s = self.at_s + lasts_s if shaken else None
        self._share = arrival.share or 0.0
        self._kind = arrival.kind

    def plan(self) -> None:
        """Schedule the events."""
        if self._kind == "partition" and self.healed_at_s is not None:
            self._at(self.at_s, self._cut)
            self._at(self.healed_at_s, self._world.network.repair)
        elif self._kind == "bootstrap-dies":
            self._at(self.at_s, lambda: self._world.stop(self._population.rendezvous))

    def _cut(self) -> None:
        """Separate a random fraction of all machines, without the bootstrap peer."""
        machines = [m for m in self._world.machines if m is not self._population.rendezvous]
        chosen = self._rng.sample(machines, round(self._share * len(machines)))
        self._world.network.partition([[machine.index for machine in chosen]])

    def _at(self, time_s: float, action: Callable[[], None]) -> None:
        self._world.heap.at(START + time_s, lambda _one, _other: action())
