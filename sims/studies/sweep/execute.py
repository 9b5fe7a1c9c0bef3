"""Run a study and write a directory of results, which is readable after any interruption."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from overlay.errors import BackendError
from sims.observations import Progress
from sims.scenario.running import RunSettings
from sims.scenario.study import Study
from sims.studies.reports.drawing import Drawn, draw
from sims.studies.results.directory import ResultsWriter
from sims.studies.results.reading import Results
from sims.studies.results.record import RunFailure, RunRecord
from sims.studies.sweep.checks import check_study
from sims.studies.sweep.cluster import run_on_dask
from sims.studies.sweep.jobs import Job, JobResult, Runner, Stop, jobs_of, run_scenario
from sims.studies.sweep.local import cores, run_locally
from sims.studies.sweep.origin import origin_of

__all__ = ["Options", "Watcher", "execute"]


@dataclass(frozen=True, slots=True)
class Options:
    """How a study is run. These options do not change the results.

    Attributes:
        run: where and how many runs are executed at the same time.
        runner: the function that runs one scenario.
        command: the command line, for the report; empty if started from Python.
    """

    run: RunSettings = field(default_factory=RunSettings)
    runner: Runner = run_scenario
    command: tuple[str, ...] = ()

    @property
    def workers(self) -> int:
        """Number of worker processes on this machine."""
        return self.run.jobs or cores()

    @property
    def at_a_time(self) -> int | None:
        """Runs at the same time on this machine; None if other machines run them."""
        return None if self.run.dask else self.workers


@dataclass(slots=True)
class Watcher:
    """Receives the progress of a study. The default implementation ignores it."""

    progress: Callable[[Job, Progress], None] = field(default=lambda _job, _progress: None)
    ended: Callable[[Job, RunRecord | RunFailure], None] = field(default=lambda _job, _end: None)
    stopping: Callable[[], None] = field(default=lambda: None)


def execute(study: Study, out: Path, options: Options, watcher: Watcher) -> Drawn:
    """Run every job of a study and draw the results.

    Ctrl-C stops the study: the results so far are saved and drawn, and the state is
    ``interrupted``. A second Ctrl-C ends the program at once.

    Raises:
        ConfigurationError: the study cannot be run, or the directory cannot be used.
        BackendError: the disk is full; files that were complete stay.
        KeyboardInterrupt: Ctrl-C was pressed twice.
    """
    check_study(study, at_a_time=options.at_a_time)
    writer = ResultsWriter(out, study, origin_of(options.command))
    stop = Stop()
    try:
        with _clean_stop(stop, watcher.stopping):
            records, failures = _run(study, writer, options, stop, watcher)
    except OSError as error:
        writer.mark_failed()
        raise BackendError(
            f"results cannot be written to {out} ({error.strerror}); what was written is kept, "
            f'"overlay sim plot {out}" reads it.'
        ) from error
    except BaseException:
        writer.mark_failed()
        raise
    return draw(out, _results(study, records, failures, stop, writer.origin))


def _run(
    study: Study,
    writer: ResultsWriter,
    options: Options,
    stop: Stop,
    watcher: Watcher,
) -> tuple[list[RunRecord], list[RunFailure]]:
    records: list[RunRecord] = []
    failures: list[RunFailure] = []
    with closing(_outcomes(study, options, stop, watcher)) as outcomes:
        for job, outcome in outcomes:
            if isinstance(outcome, RunFailure):
                failures.append(outcome)
                writer.add_failure(outcome)
                watcher.ended(job, outcome)
            else:
                records.append(writer.add(job.point, outcome))
                watcher.ended(job, records[-1])
    writer.finish("interrupted" if stop.requested else "complete")
    return records, failures


def _outcomes(
    study: Study, options: Options, stop: Stop, watcher: Watcher
) -> Generator[JobResult, None, None]:
    jobs = jobs_of(study)
    if options.run.dask:
        return run_on_dask(jobs, options.runner, options.run.dask, stop, watcher.progress)
    return run_locally(jobs, options.runner, options.workers, stop, watcher.progress)


def _results(
    study: Study,
    records: list[RunRecord],
    failures: list[RunFailure],
    stop: Stop,
    origin: Mapping[str, object],
) -> Results:
    return Results(
        study,
        "interrupted" if stop.requested else "complete",
        dict(origin),
        sorted(records, key=lambda run: (run.point, run.seed)),
        sorted(failures, key=lambda failure: (failure.point, failure.seed)),
        [],
    )


@contextmanager
def _clean_stop(stop: Stop, stopping: Callable[[], None]) -> Iterator[None]:
    """Let the first Ctrl-C or SIGTERM request a stop, and the second one interrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python handles signals only in the main thread
        return

    def ask(_signal: int, _frame: FrameType | None) -> None:
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested = True
        stopping()

    before = {each: signal.signal(each, ask) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
