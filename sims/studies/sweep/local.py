"""Run jobs on this machine: one process per run, a limited number of them at a time.

::

    parent                                   child (one run)
      Job, Runner  ─────────────────────────▶  runs
                   ◀───────── Progress ──────  now and then
      "stop"       ─────────────────────────▶  asked about now and then
                   ◀── RunOutcome | text ────  ends

Each run has a process of its own, so that its memory is freed and its crash does not affect other
runs. A child stops if its parent ends, because its pipe is then closed.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Generator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Final

from overlay.logs import configure_logging
from sims.observations import Progress, RunOutcome
from sims.studies.results.record import RunFailure
from sims.studies.sweep.jobs import Job, JobResult, Runner, ShowJobProgress, Stop, failure_sentence

__all__ = ["cores", "run_locally"]

_PATIENCE_S: Final = 0.2
"""Time in seconds after which the parent checks whether the user requested a stop."""

_PROGRESS_EVERY_S: Final = 0.25


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def run_locally(
    jobs: Sequence[Job], runner: Runner, workers: int, stop: Stop, show: ShowJobProgress
) -> Generator[JobResult, None, None]:
    """Yield the outcome of each run when it ends. After a stop no further run begins."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["sims.world.run", "sims.studies.sweep.local"]
    )  # import once here, not in each child
    waiting = list(reversed(jobs))
    running: dict[Connection, tuple[Job, ForkServerProcess]] = {}
    told = False
    try:
        while running or (waiting and not stop.requested):
            while waiting and len(running) < workers and not stop.requested:
                _start(context, waiting.pop(), runner, running)
            if stop.requested and not told:
                told = True
                _tell_all(running)
            for connection in wait(list(running), _PATIENCE_S):
                assert isinstance(connection, Connection)
                result = _heard(connection, running, show, stop)
                if result is not None:
                    yield result
    finally:
        for connection, (_job, process) in running.items():
            process.kill()
            process.join()
            connection.close()


def _start(
    context: ForkServerContext,
    job: Job,
    runner: Runner,
    running: dict[Connection, tuple[Job, ForkServerProcess]],
) -> None:
    ours, theirs = context.Pipe()
    process = context.Process(target=_child, args=(theirs, job, runner), daemon=True)
    process.start()
    theirs.close()
    running[ours] = job, process


def _tell_all(running: dict[Connection, tuple[Job, ForkServerProcess]]) -> None:
    for connection in running:
        try:
            connection.send("stop")
        except OSError:
            continue  # it has just ended, so its result or its exit status follows


def _heard(
    connection: Connection,
    running: dict[Connection, tuple[Job, ForkServerProcess]],
    show: ShowJobProgress,
    stop: Stop,
) -> JobResult | None:
    """Process one message of a child; return its result if the message is the result."""
    job, process = running[connection]
    try:
        message = connection.recv()
    except (EOFError, OSError):
        message = None
    if isinstance(message, Progress):
        show(job, message)
        return None
    process.join()
    del running[connection]
    connection.close()
    if isinstance(message, RunOutcome):
        return job, message
    if stop.requested and message is None:
        return None  # it was interrupted before it started to measure
    sentence = message if isinstance(message, str) else _death(process.exitcode)
    return job, RunFailure(job.point, job.seed, sentence)


def _death(exit_code: int | None) -> str:
    if exit_code == -signal.SIGKILL:
        return (
            "the worker was killed (signal 9), as the kernel does when memory runs out; "
            "name fewer nodes or fewer --jobs."
        )
    how = f"by signal {-exit_code}" if exit_code and exit_code < 0 else f"with status {exit_code}"
    return f"the worker ended {how} before the run did."


def _child(connection: Connection, job: Job, runner: Runner) -> None:
    """Run one job. It ignores Ctrl-C, which reaches the whole group; the parent handles it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    configure_logging("error")  # warnings of simulated nodes would hide the progress
    watch = _Watch(connection)
    answer: RunOutcome | str
    try:
        answer = runner(job.scenario, job.seed, progress=watch.show, should_stop=watch.should_stop)
    except Exception as error:
        answer = failure_sentence(error)
    try:
        connection.send(answer)
    except OSError:
        return  # the parent is gone


class _Watch:
    """The child's end of the pipe: it sends progress and receives the stop."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._next = 0.0
        self._stopped = False

    def show(self, progress: Progress) -> None:
        now = time.monotonic()
        if now >= self._next and not self._stopped:
            self._next = now + _PROGRESS_EVERY_S
            try:
                self._connection.send(progress)
            except OSError:
                self._stopped = True

    def should_stop(self) -> bool:
        if not self._stopped:
            try:
                self._stopped = (
                    self._connection.poll()
                )  # either a message, or the pipe was closed because the parent ended
            except OSError:
                self._stopped = True
        return self._stopped
