"""One run as a job: what crosses to a worker, what comes back.

Reasons: docs/decisions/0024.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from overlay.dht.settings import DhtSettings
from overlay.errors import OverlayError
from overlay.plugin_failures import blamed_plugin
from overlay.plugins import settings_of
from sims.results.model import Progress, RunOutcome, ShouldStop, ShowProgress
from sims.results.record import RunFailure
from sims.scenario.model import Scenario
from sims.scenario.study import Study

__all__ = ["Job", "JobResult", "Runner", "Stop", "failure_sentence", "jobs_of", "run_scenario"]


@dataclass(frozen=True, slots=True)
class Job:
    """One run: the study's point, its scenario and the seed."""

    point: int
    scenario: Scenario
    seed: int

    @property
    def key(self) -> tuple[int, int]:
        """What tells this job from all others of its study."""
        return self.point, self.seed


JobResult = tuple[Job, RunOutcome | RunFailure]

ShowJobProgress = Callable[[Job, Progress], None]


class Runner(Protocol):
    """An engine: a function at the top of its module, so that it can be named to a worker."""

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
    """Whether the user asked to stop; set by a signal handler, read by executors."""

    def __init__(self) -> None:
        self.requested = False


def jobs_of(study: Study) -> list[Job]:
    """Return every run of a study: all points with the first seed, then with the next.

    Whoever stops half-way has something of every point.
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
        ConfigurationError: the scenario asks for what does not exist.
    """
    if scenario.fidelity == "full":
        from sims.run import run

        return run(scenario, seed, progress=progress, should_stop=should_stop)
    from sims.churn import parse_model
    from sims.model.run import run_model

    return run_model(
        scenario,
        parse_model(scenario.churn.model),
        settings_of("dht", DhtSettings, scenario.dht),
        seed,
        progress=progress,
        should_stop=should_stop,
    )


def failure_sentence(error: BaseException) -> str:
    """Say in one line why a run failed; what is no error of ours is a bug and says so."""
    blamed = blamed_plugin(error)
    if blamed is not None:
        return str(blamed)
    if isinstance(error, OverlayError):
        return str(error)
    if isinstance(error, MemoryError):
        return "the run needs more memory than there is; name fewer nodes or fewer --jobs."
    return f"this is a bug in the simulator: {type(error).__name__}: {str(error)[:200]}"
