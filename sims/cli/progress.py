"""Show progress with an estimate of the remaining time."""

from __future__ import annotations

import shutil
import time
from typing import Final, TextIO

from sims.observations import Progress
from sims.scenario.study import Study
from sims.studies.reports.numbers import duration
from sims.studies.results.record import RunFailure, RunRecord
from sims.studies.sweep.jobs import Job

__all__ = ["ProgressLine"]

_TERMINAL_EVERY_S: Final = 0.2
_LOG_EVERY_S: Final = 30.0


class ProgressLine:
    """Show the progress of all runs of a study on one line.

    On a terminal the line is overwritten. Elsewhere a new line follows every 30 seconds and
    after each run.
    """

    def __init__(self, study: Study, stream: TextIO) -> None:
        self._stream = stream
        self._live = stream.isatty()
        self._total_s = sum(p.scenario.total_s * len(p.scenario.seeds) for p in study.points)
        self._planned = study.runs
        self._running: dict[tuple[int, int], Progress] = {}
        self._done_s = 0.0
        self._ended = 0
        self._began = time.monotonic()
        self._next = self._began + (0 if self._live else _LOG_EVERY_S)

    def progress(self, job: Job, progress: Progress) -> None:
        """Process the progress of a run; write a line if it is due."""
        self._running[job.key] = progress
        now = time.monotonic()
        if now >= self._next:
            self._next = now + (_TERMINAL_EVERY_S if self._live else _LOG_EVERY_S)
            self._write(self._line(now))

    def ended(self, job: Job, end: RunRecord | RunFailure) -> None:
        """Process the end of a run."""
        self._running.pop(job.key, None)
        self._done_s += job.scenario.total_s
        self._ended += 1
        if isinstance(end, RunFailure):
            self.say(f"seed {job.seed} failed: {end.sentence}")
        elif not self._live:
            self._write(self._line(time.monotonic()))

    def stopping(self) -> None:
        """Write that the study stops, and how to stop at once."""
        self.say("stopping; what was measured is kept (Ctrl-C again ends at once)")

    def say(self, sentence: str) -> None:
        """Write a sentence on a line of its own."""
        self._write("")
        self._stream.write(f"{sentence}\n")
        self._stream.flush()

    def close(self) -> None:
        """End the line, so that later output begins on a new one."""
        if self._live:
            self._write("")

    def _line(self, now: float) -> str:
        passed_s = self._done_s + sum(each.simulated_s for each in self._running.values())
        share = min(passed_s / self._total_s, 1.0) if self._total_s else 0.0
        elapsed_s = now - self._began
        left = f", about {duration(elapsed_s * (1 - share) / share)} left" if share > 0.002 else ""
        online = sum(each.online for each in self._running.values())
        return (
            f"{100 * share:3.0f} %, {self._ended} of {self._planned} runs ended, "
            f"{len(self._running)} running with {online:,} nodes on-line, "
            f"{duration(elapsed_s)} so far{left}"
        )

    def _write(self, line: str) -> None:
        if self._live:
            width = shutil.get_terminal_size().columns - 1
            self._stream.write(f"\r\x1b[K{line[:width]}")
        elif line:
            self._stream.write(f"{line}\n")
        self._stream.flush()
