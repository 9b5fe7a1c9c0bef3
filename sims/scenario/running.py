"""Settings of a run that do not change its results: processes and seeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from overlay.settings import setting, whole
from sims.scenario.sections import ScenarioSettings
from sims.scenario.values import LINE, optional

__all__ = ["AcceptSettings", "RunSettings"]

_JOBS: Final = whole(1, 1024)


@dataclass(frozen=True, slots=True)
class RunSettings(ScenarioSettings):
    """Where and how many runs of a study are executed at the same time."""

    heading: ClassVar[str] = "--"

    jobs: int | None = setting(
        None, optional(_JOBS, "one per core"), "Runs at the same time on this machine."
    )
    dask: str | None = setting(
        None,
        optional(LINE, "this machine"),
        "Address of the scheduler of a Dask cluster that executes the runs.",
    )

    def check(self) -> None:
        """Check that the number of processes of a cluster is not set here."""
        if self.jobs is not None and self.dask is not None:
            raise ValueError(
                "jobs has no meaning for a Dask cluster, which has its own workers; leave one out"
            )


@dataclass(frozen=True, slots=True)
class AcceptSettings(ScenarioSettings):
    """How acceptance experiments are executed."""

    heading: ClassVar[str] = "--"

    jobs: int = setting(1, _JOBS, "Experiments at the same time.")
    seeds: int | None = setting(
        None,
        optional(whole(1, 10_000), "10, or 2 with --quick"),
        "Number of seeds of each experiment.",
    )
