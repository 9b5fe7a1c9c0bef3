"""The Python interface of the simulator, with the functions of ``overlay sim churn``.

::

    from sims import churn_simulation
    from sims.scenario.running import RunSettings
from sims.scenario.scenario import Adversary, Scenario

    if __name__ == "__main__":  # runs are processes of their own, which import this file
        scenario = Scenario(nodes=500, adversary=Adversary(0.2, ("drop",)))
        drawn = churn_simulation(scenario, out="results", sweep={"adversary.share": [0.1, 0.2]})
        print(drawn.held, drawn.points[0].metrics[0].mean)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sims.observations import Progress
from sims.scenario.files import load_tables
from sims.scenario.parameters import Scalar
from sims.scenario.plain import plain_of
from sims.scenario.running import RunSettings
from sims.scenario.scenario import Scenario
from sims.scenario.study import Axis, study_of
from sims.studies.reports.drawing import Drawn
from sims.studies.results.directory import free_directory
from sims.studies.sweep.execute import Options, Watcher, execute
from sims.studies.sweep.jobs import Job

__all__ = ["churn_simulation"]


def churn_simulation(
    scenario: Scenario | str | Path,
    *,
    sweep: Mapping[str, Sequence[Scalar]] | None = None,
    out: str | Path | None = None,
    jobs: int | None = None,
    dask: str | None = None,
    quick: bool = False,
    progress: Callable[[Job, Progress], None] | None = None,
) -> Drawn:
    """Simulate a scenario with all its seeds, and write its results directory.

    Args:
        scenario: a value, the name of a shipped scenario, or a TOML file.
        sweep: settings and their values; every combination is run.
        out: new directory for results; ``sim-results/NAME-1`` and so on unless given.
        jobs: runs at a time on this machine; one for each core unless given.
        dask: address of a Dask scheduler that runs them instead.
        quick: take the small size of a shipped or written scenario.
        progress: told how far each run is.

    Returns:
        What was measured, summed up for each point of the sweep, with the verdicts.

    Raises:
        ConfigurationError: the scenario cannot be run; one sentence.
        BackendError: the results could not be written.
        KeyboardInterrupt: interrupted twice; once only ends the study early.
    """
    tables = (
        plain_of(scenario) if isinstance(scenario, Scenario) else load_tables(scenario, quick=quick)
    )
    axes = [Axis(setting, tuple(values)) for setting, values in (sweep or {}).items()]
    study = study_of(tables, axes)
    watcher = Watcher() if progress is None else Watcher(progress=progress)
    place = free_directory(study.base.name) if out is None else Path(out)
    return execute(study, place, Options(RunSettings(jobs, dask)), watcher)
