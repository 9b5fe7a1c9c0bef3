"""Records of runs: what is stored besides the observations, and why a run failed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from sims.observations import RunOutcome
from sims.scenario.scenario import Scenario
from sims.studies.results.condensed import Condensed, Key, condense

__all__ = ["RunFailure", "RunRecord", "record_of"]


@dataclass(frozen=True, slots=True)
class RunFailure:
    """A run without results, with the reason as one sentence."""

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
        point: index of the study's point, from 0.
        values: condensed values by metric and label.
        others: as in :class:`sims.observations.RunOutcome`.
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
        """Simulated datagrams per second of wall time; NaN if they were not counted."""
        datagrams = self.counters.get("datagrams")
        return datagrams / self.wall_s if datagrams is not None and self.wall_s > 0 else math.nan

    @property
    def speed(self) -> float:
        """Simulated time divided by wall time."""
        return self.simulated_s / self.wall_s if self.wall_s > 0 else math.nan

    def plain(self) -> dict[str, object]:
        """Return the record for JSON, without the values, which follow from the observations."""
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
    """Return the condensed record of an outcome."""
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
