"""Run jobs on a Dask cluster, with the same results as on this machine.

The workers need the same version of this package. Each run is one task. If its worker dies, the
run is repeated alone; if that worker dies as well, the run has failed.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any, Final

from overlay.errors import ConfigurationError
from sims.observations import Progress, RunOutcome
from sims.studies.results.record import RunFailure
from sims.studies.sweep.jobs import Job, JobResult, Runner, ShowJobProgress, Stop, failure_sentence

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["run_on_dask"]

_PATIENCE_S: Final = 0.5
_CONNECT_S: Final = 10
_ASK_EVERY_S: Final = 1.0
"""Interval at which a run reports its progress and asks the scheduler whether to stop."""


def run_on_dask(
    jobs: Sequence[Job], runner: Runner, address: str, stop: Stop, show: ShowJobProgress
) -> Generator[JobResult, None, None]:
    """Yield the outcome of each run when it ends. After a stop no further run begins.

    Raises:
        ConfigurationError: Dask is not installed, or no scheduler answers.
    """
    client = _client(address)
    name = f"overlay-sim-{uuid.uuid4().hex}"
    doubtful: list[Job] = []
    try:
        _subscribe(client, name, jobs, show)
        yield from _results(client, _submitted(client, jobs, runner, name), name, stop, doubtful)
        for job in sorted(doubtful, key=lambda each: each.key):
            alone = _submitted(client, [job], runner, name)
            yield from _results(client, alone, name, stop, None)
    finally:
        client.close(timeout=_CONNECT_S)


def _submitted(client: Client, jobs: Sequence[Job], runner: Runner, name: str) -> dict[Future, Job]:
    return {
        client.submit(
            _on_worker, job, runner, name, pure=False, key=f"{name}-{uuid.uuid4().hex}"
        ): job
        for job in jobs
    }


def _client(address: str) -> Client:
    try:
        from distributed import Client
    except ImportError as error:
        raise ConfigurationError(
            "--dask needs the package distributed; install it with \"pip install '.[dask]'\" in a "
            "clone, or leave --dask out to use this machine's cores."
        ) from error
    try:
        return Client(address, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, TimeoutError, ValueError, TypeError) as error:
        raise ConfigurationError(
            f"--dask {address}: no scheduler answers there; write the address that it printed, "
            "as in tcp://192.0.2.1:8786."
        ) from error


def _subscribe(client: Client, topic: str, jobs: Sequence[Job], show: ShowJobProgress) -> None:
    by_key = {job.key: job for job in jobs}

    def heard(event: tuple[float, Any]) -> None:
        point, seed, *progress = event[1]
        show(by_key[point, seed], Progress(*progress))

    client.subscribe_topic(topic, heard)


def _results(
    client: Client,
    futures: dict[Future, Job],
    name: str,
    stop: Stop,
    doubtful: list[Job] | None,
) -> Generator[JobResult, None, None]:
    """Yield the outcomes of the runs; runs whose worker died go to ``doubtful`` if it is given.

    When a worker dies, all its runs end. Only a second try of each run alone shows which of
    them caused it.
    """
    from distributed import Event, KilledWorker, wait

    pending = set(futures)
    told = False
    while pending:
        if stop.requested and not told:
            told = True
            Event(name, client=client).set()
        try:
            with client.as_current():
                done = wait(pending, timeout=_PATIENCE_S, return_when="FIRST_COMPLETED").done
        except TimeoutError:
            continue
        pending -= done
        for future in sorted(done, key=lambda each: futures[each].key):
            job = futures[future]
            if doubtful is not None and isinstance(future.exception(), KilledWorker):
                doubtful.append(job)
                continue
            outcome = _outcome(future, job)
            if outcome is not None:
                yield job, outcome


def _outcome(future: Future, job: Job) -> RunOutcome | RunFailure | None:
    from distributed import KilledWorker

    error = future.exception()
    if isinstance(error, KilledWorker):
        sentence = "the workers that tried this run died, as they do when memory runs out."
        return RunFailure(job.point, job.seed, sentence)
    answer = failure_sentence(error) if error is not None else future.result()
    if isinstance(answer, RunOutcome) or answer is None:
        return answer
    return RunFailure(job.point, job.seed, str(answer))


def _on_worker(job: Job, runner: Runner, name: str) -> RunOutcome | str | None:
    """Run one job on a worker; return None if the study was stopped before."""
    watch = _Watch(job, name)
    if watch.should_stop():
        return None
    try:
        return runner(job.scenario, job.seed, progress=watch.show, should_stop=watch.should_stop)
    except Exception as error:
        return failure_sentence(error)


class _Watch:
    """The connection of a worker to the client: it sends progress and receives the stop."""

    def __init__(self, job: Job, name: str) -> None:
        from distributed import Event, get_worker

        self._job, self._name = job, name
        self._worker, self._event = get_worker(), Event(name)
        self._next_show = self._next_ask = 0.0
        self._stopped = False

    def show(self, progress: Progress) -> None:
        now = time.monotonic()
        if now >= self._next_show:
            self._next_show = now + _ASK_EVERY_S
            self._worker.log_event(self._name, (*self._job.key, *progress))

    def should_stop(self) -> bool:
        now = time.monotonic()
        if not self._stopped and now >= self._next_ask:
            self._next_ask = now + _ASK_EVERY_S
            self._stopped = bool(self._event.is_set())
        return self._stopped
