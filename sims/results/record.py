"""What is kept of a run besides its observations, and of one that failed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from sims.results.condensed import Condensed, Key, condense
from sims.results.model import RunOutcome
from sims.scenario.model import Scenario

__all__ = ["RunFailure", "RunRecord", "record_of"]


@dataclass(frozen=True, slots=True)
class RunFailure:
    """A run that yielded nothing: one sentence says why."""

    point: int
    seed: int
    sentence: str

    def plain(self) -> dict[str, object]:
        """Return the failure as JSON's own types."""
        return {"point": self.point, "seed": self.seed, "sentence": self.sentence}


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One finished or interrupted run, condensed.

    Attributes:
        point: number of the study's point, from 0.
        values: by metric and label.
        others: see :class:`sims.results.model.RunOutcome`.
    """

    point: int
    seed: int
    digest: str
    counters: Mapping[str, int]
    complete: bool
    simulated_s: float
    wall_s: float
    peak_rss_bytes: int
    values: Mapping[Key, Condensed]

    @property
    def datagrams_per_s(self) -> float:
        """Simulated datagrams in a second of wall time; NaN if they were not counted."""
        datagrams = self.counters.get("datagrams")
        return datagrams / self.wall_s if datagrams is not None and self.wall_s > 0 else math.nan

    @property
    def speed(self) -> float:
        """Simulated over wall time."""
        return self.simulated_s / self.wall_s if self.wall_s > 0 else math.nan

    def plain(self) -> dict[str, object]:
        """Return everything but the values, which the observations tell, for JSON."""
        return {
            "point": self.point,
            "seed": self.seed,
            "digest": self.digest,
            "counters": dict(self.counters),
            "complete": self.complete,
            "simulated_s": self.simulated_s,
            "wall_s": self.wall_s,
            "peak_rss_bytes": self.peak_rss_bytes,
        }


def record_of(point: int, scenario: Scenario, outcome: RunOutcome) -> RunRecord:
    """Condense an outcome."""
    return RunRecord(
        point,
        outcome.seed,
        outcome.digest,
        dict(outcome.counters),
        outcome.complete,
        outcome.simulated_s,
        outcome.wall_s,
        outcome.peak_rss_bytes,
        condense(outcome.observations, scenario),
    )
