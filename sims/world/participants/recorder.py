"""Record observations under the time of the world."""

from __future__ import annotations

from typing import Protocol

from sims.observations import Observations
from sims.world.participants.world import World

__all__ = ["Recorder", "Sampled"]


class Sampled(Protocol):
    """A measure that samples the state of the overlay at intervals."""

    def sample(self) -> None:
        """Record the current state."""
        ...


class Recorder:
    """Write observations with the time of the world."""

    def __init__(self, world: World, observations: Observations) -> None:
        self.world = world
        self.observations = observations

    def add(self, metric: str, value: float, label: str = "") -> None:
        """Record one value with the current time."""
        self.observations.add(self.world.time_s, metric, value, label)
