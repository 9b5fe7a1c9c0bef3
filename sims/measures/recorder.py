"""What every measure shares: where values go, and when."""

from __future__ import annotations

from typing import Protocol

from sims.participants.world import World
from sims.results.model import Observations

__all__ = ["Recorder", "Sampled"]


class Sampled(Protocol):
    """A measure that looks at the state of the overlay now and then."""

    def sample(self) -> None:
        """Record the state as it is."""
        ...


class Recorder:
    """Writes observations under the world's time."""

    def __init__(self, world: World, observations: Observations) -> None:
        self.world = world
        self.observations = observations

    def add(self, metric: str, value: float, label: str = "") -> None:
        """Record one value, now."""
        self.observations.add(self.world.time_s, metric, value, label)
