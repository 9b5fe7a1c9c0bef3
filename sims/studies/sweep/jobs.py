"""Jobs: what a worker gets to run a scenario, and what it returns.

Reasons: docs/decisions/0024.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from overlay.dht.settings import DhtSettings
from overlay.errors import OverlayError
from overlay.plugin_failures import blamed_plugin
from overlay.settings import read_settings
from sims.observations import Progress, RunOutcome, ShouldStop, ShowProgress
from sims.scenario.scenario import Scenario
from sims.scenario.study import Study
from sims.studies.results.record import RunFailure

__all__ = ["Job", "JobResult", "Runner", "Stop", "failure_sentence", "jobs_of", "run_scenario"]


@dataclass(frozen=True, slots=True)
class Job:
    """One run: the study's point, its scenario and the seed."""

    point: int
    scenario: Scenario
    seed: int

    @property
    def key(self) -> tuple[int, int]:
        """The key that identifies this job within its study."""
        return self.point, self.seed


JobResult = tuple[Job, RunOutcome | RunFailure]

ShowJobProgress = Callable[[Job, Progress], None]


class Runner(Protocol):
    """A function that runs a scenario. It is at module level, so that it can be pickled."""

    def __call__(
        self,
        scenario: Scenario,
        seed: int,
        *,
        progress: ShowProgress | None,
        should_stop: ShouldStop | None,
    ) -> RunOutcome:
        """Run one scenario with one seed."""
        ...


class Stop:
    """Whether the user requested a stop; a signal handler sets it, executors read it."""

    def __init__(self) -> None:
        self.requested = False


def jobs_of(study: Study) -> list[Job]:
    """Return every run of a study: all points with the first seed, then with the next seeds.

    So a study that is interrupted has results for every point.
    """
    listed = [
        (place, number, Job(number, point.scenario, seed))
        for number, point in enumerate(study.points)
        for place, seed in enumerate(point.scenario.seeds)
    ]
    return [job for _place, _number, job in sorted(listed, key=lambda each: each[:2])]


def run_scenario(
    scenario: Scenario,
    seed: int,
    *,
    progress: ShowProgress | None = None,
    should_stop: ShouldStop | None = None,
) -> RunOutcome:
    """Run one scenario with one seed, at the fidelity that it asks for.

    Raises:
        ConfigurationError: the scenario names something that does not exist.
    """
    if scenario.fidelity == "full":
        from sims.world.run import run

        return run(scenario, seed, progress=progress, should_stop=should_stop)
    from sims.vectorised.run import run_model
    from sims.world.churn import parse_model

    return run_model(
        scenario,
        parse_model(scenario.churn.model),
        read_settings("dht", DhtSettings, scenario.dht),
        seed,
        progress=progress,
        should_stop=should_stop,
    )


def failure_sentence(error: BaseException) -> str:
    """Return in one line why a run failed. An unexpected exception is reported as a bug."""
    blamed = blamed_plugin(error)
    if blamed is not None:
        return str(blamed)
    if isinstance(error, OverlayError):
        return str(error)
    if isinstance(error, MemoryError):
        return "the run needs more memory than there is; name fewer nodes or fewer --jobs."
    return f"this is a bug in the simulator: {type(error).__name__}: {str(error)[:200]}"
