"""Write a results directory that can be read whenever the program is stopped.

::

    config.json        the study, resolved, with versions        written first
    manifest.json      state: running | complete | interrupted | failed
    runs/000-7.csv     observations of point 0, seed 7           each file whole or absent,
    runs/000-7.json    its digest, counters, times               the .json after its .csv
    observations.csv   all runs, in the order of the study       at the end, the runs' .csv go
    digests.txt  summary.json  report.html  figures/             drawn from the above
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from overlay.errors import ConfigurationError
from sims.observations import RunOutcome
from sims.scenario.study import Study
from sims.studies.results.atomic import write_json, write_lines, write_text
from sims.studies.results.record import RunFailure, RunRecord, record_of
from sims.studies.results.table import HEADER, table_lines

__all__ = ["FORMAT", "ResultsWriter", "free_directory", "write_digests"]

FORMAT: Final = 1
"""Version of the directory's layout."""


def free_directory(name: str, under: Path = Path("sim-results")) -> Path:
    """Return the first of ``sim-results/NAME-1``, ``-2`` and so on that does not exist."""
    number = 1
    while (under / f"{name}-{number}").exists():
        number += 1
    return under / f"{name}-{number}"


class ResultsWriter:
    """Write one new results directory while its study runs.

    Raises:
        ConfigurationError: the directory is not empty or cannot be created.
    """

    def __init__(self, path: Path, study: Study, origin: Mapping[str, object]) -> None:
        self.path = path
        self.origin = origin
        self._study = study
        self._failures: list[RunFailure] = []
        _make(path)
        try:
            (path / "runs").mkdir()
            write_json(path / "config.json", {"format": FORMAT, **origin, **study.plain()})
            self._mark("running")
        except OSError as error:
            raise ConfigurationError(_unwritable(path, error)) from error

    def add(self, point: int, outcome: RunOutcome) -> RunRecord:
        """Save a run completely or not at all, and return it condensed.

        Raises:
            OSError: no room.
        """
        stem = self._stem(point, outcome.seed)
        name = self._study.points[point].name
        write_lines(
            stem.with_suffix(".csv"),
            _with_header(table_lines(name, outcome.seed, outcome.observations)),
        )
        record = record_of(point, self._study.points[point].scenario, outcome)
        write_json(stem.with_suffix(".json"), record.plain())
        return record

    def add_failure(self, failure: RunFailure) -> None:
        """Record that a run failed, and why.

        Raises:
            OSError: no room.
        """
        self._failures.append(failure)
        self._mark("running")

    def finish(self, state: str) -> None:
        """Write all runs into one table and record how the study ended.

        Raises:
            OSError: the disk is full; the tables of the runs stay and can be read instead.
        """
        parts = [part for part in self._stems(".csv") if part.exists()]
        write_lines(self.path / "observations.csv", _joined(parts))
        self._mark(state)
        for part in parts:
            part.unlink()

    def mark_failed(self) -> None:
        """Record that the study failed, if the disk still permits it."""
        try:
            self._mark("failed")
        except OSError:
            return  # the state stays "running", which readers treat as incomplete, too

    def _mark(self, state: str) -> None:
        failures = sorted(self._failures, key=lambda failure: (failure.point, failure.seed))
        manifest = {
            "format": FORMAT,
            "state": state,
            "planned_runs": self._study.runs,
            "failures": [failure.plain() for failure in failures],
        }
        write_json(self.path / "manifest.json", manifest)

    def _stem(self, point: int, seed: int) -> Path:
        return self.path / "runs" / f"{point:03d}-{seed}"

    def _stems(self, suffix: str) -> Iterator[Path]:
        for number, point in enumerate(self._study.points):
            for seed in sorted(point.scenario.seeds):
                yield self._stem(number, seed).with_suffix(suffix)


def write_digests(path: Path, study: Study, runs: list[RunRecord]) -> None:
    """Write the event digest of each run, so that machines can be compared."""
    lines = [
        f"{run.digest}  {study.points[run.point].name} seed {run.seed}"
        + ("" if run.complete else " (interrupted)")
        for run in sorted(runs, key=lambda run: (run.point, run.seed))
    ]
    write_text(path / "digests.txt", "\n".join(lines) + "\n")


def _make(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        taken = any(path.iterdir())
    except OSError as error:
        raise ConfigurationError(_unwritable(path, error)) from error
    if taken:
        raise ConfigurationError(
            f"--out {path} is not empty; name a new directory, so that no result is overwritten."
        )


def _unwritable(path: Path, error: OSError) -> str:
    return (
        f"results cannot be written to {path} ({error.strerror}); "
        "name another directory with --out."
    )


def _with_header(rows: Iterator[str]) -> Iterator[str]:
    yield HEADER
    yield from rows


def _joined(parts: list[Path]) -> Iterator[str]:
    yield HEADER
    for part in parts:
        with part.open(encoding="utf-8", newline="") as file:
            next(file, None)
            while piece := file.read(1 << 20):
                yield piece
