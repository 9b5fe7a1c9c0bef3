"""Read a results directory, even if a full disk or a kill left it incomplete."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from overlay.errors import ConfigurationError
from sims.observations import Observations
from sims.scenario.study import Study
from sims.studies.results.condensed import Condensed, Key, condense
from sims.studies.results.directory import FORMAT
from sims.studies.results.record import RunFailure, RunRecord
from sims.studies.results.table import read_table

__all__ = ["Results", "read_results"]

_BEYOND: Final = 1e18
"""Larger numbers count as damaged, because no count or cost of a run comes near this."""


@dataclass(frozen=True, slots=True)
class Results:
    """What a results directory holds.

    Attributes:
        study: what was simulated.
        state: ``complete``, ``interrupted``, ``failed``, or ``running`` for a directory whose
            program was killed (or still runs).
        origin: versions, command and date, as ``config.json`` has them.
        runs: condensed runs, in the order of points and seeds.
        failures: runs without results, with the reason.
        notes: one sentence for each thing that is damaged or missing.
    """

    study: Study
    state: str
    origin: dict[str, Any]
    runs: list[RunRecord]
    failures: list[RunFailure]
    notes: list[str]

    @property
    def complete(self) -> bool:
        """Whether every planned run is present and complete."""
        return (
            self.state == "complete"
            and not self.notes
            and len(self.runs) == self.study.runs
            and all(run.complete for run in self.runs)
        )


def read_results(path: Path) -> Results:
    """Read a directory that ``overlay sim churn`` wrote.

    Raises:
        ConfigurationError: the directory holds no study, or a newer version wrote it. Other
            damage is not an error: the readable part is returned with notes.
    """
    notes: list[str] = []
    config = _config(path)
    manifest = _object(path / "manifest.json", notes)
    for file, told in (("config.json", config), ("manifest.json", manifest)):
        _check_format(path / file, told)
    study = _study(path, config)
    values = _observations(path, study, notes)
    runs = list(_runs(path, study, values, notes))
    origin = {k: v for k, v in config.items() if k not in ("points", "axes", "format")}
    state = str(manifest.get("state", "running"))
    return Results(study, state, origin, runs, list(_failures(manifest, notes)), notes)


def _config(path: Path) -> dict[str, Any]:
    file = path / "config.json"
    try:
        config = json.loads(file.read_bytes())
    except OSError as error:
        raise ConfigurationError(
            f"{path} holds no results: config.json cannot be read ({error.strerror}); name the "
            'directory that "overlay sim churn" wrote.'
        ) from error
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(
            f"{file} is damaged, and without it nothing tells what was simulated; run again."
        ) from error
    if not isinstance(config, dict):
        raise ConfigurationError(f"{file} is no object of JSON; run again.")
    return config


def _check_format(file: Path, told: Mapping[str, object]) -> None:
    written = told.get("format")
    if type(written) is int and written > FORMAT:
        raise ConfigurationError(
            f"{file} was written by a newer version of this program (format {str(written)[:20]}, "
            f"and this one reads up to {FORMAT}); draw it with that version."
        )


def _study(path: Path, config: dict[str, Any]) -> Study:
    try:
        return Study.of_plain(config)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path / 'config.json'}: {error}") from error


def _object(file: Path, notes: list[str]) -> dict[str, Any]:
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        return value
    notes.append(f"{file.name} is missing or damaged.")
    return {}


def _observations(
    path: Path, study: Study, notes: list[str]
) -> dict[tuple[int, int], Observations]:
    places = {point.name: number for number, point in enumerate(study.points)}
    found: dict[tuple[int, int], Observations] = {}
    damaged = 0
    for file in _tables(path):
        for row in _rows(file, notes):
            if row is None or row[0] not in places:
                damaged += 1
                continue
            name, seed, (time_s, metric, label, value) = row
            run = found.setdefault((places[name], seed), Observations())
            run.add(time_s, metric, value, label)
    if damaged:
        notes.append(f"{damaged} damaged rows of observations were left out.")
    return found


def _rows(file: Path, notes: list[str]) -> Iterator[Any]:
    try:
        yield from read_table(file)
    except OSError as error:
        notes.append(f"{file.name} cannot be read ({error.strerror}).")


def _tables(path: Path) -> list[Path]:
    """Return the common table, or the tables of the runs if there is no common one.

    If both exist, the program was stopped after it wrote the common table and before it
    removed the others. Then the common table is complete.
    """
    whole = path / "observations.csv"
    return [whole] if whole.exists() else sorted((path / "runs").glob("*.csv"))


def _runs(
    path: Path, study: Study, values: dict[tuple[int, int], Observations], notes: list[str]
) -> Iterator[RunRecord]:
    for number, point in enumerate(study.points):
        for seed in sorted(point.scenario.seeds):
            file = path / "runs" / f"{number:03d}-{seed}.json"
            observations = values.pop((number, seed), None)
            if not file.exists() and observations is None:
                continue
            told = _object(file, notes)
            if not told and observations is None:
                continue
            if observations is None:
                notes.append(f"The observations of {point.name}, seed {seed}, are missing.")
            condensed = condense(observations or Observations(), point.scenario)
            yield _run(number, seed, told, condensed)
    if values:
        notes.append(f"{len(values)} runs that the study does not name were left out.")


def _run(
    point: int, seed: int, told: dict[str, Any], condensed: Mapping[Key, Condensed]
) -> RunRecord:
    counters = told.get("counters")
    counted = counters if isinstance(counters, dict) else {}
    return RunRecord(
        point,
        seed,
        str(told.get("digest", "")),
        {str(name): count for name, count in counted.items() if _is_count(count)},
        told.get("complete") is True,
        _number(told.get("simulated_s")),
        _number(told.get("wall_s")),
        int(_number(told.get("peak_rss_bytes"))),
        condensed,
    )


def _is_count(value: object) -> bool:
    return type(value) is int and abs(value) < _BEYOND


def _number(value: object) -> float:
    usable = isinstance(value, int | float) and abs(value) < _BEYOND and math.isfinite(value)
    return float(value) if usable else 0.0  # type: ignore[arg-type]  # usable says so


def _failures(manifest: dict[str, Any], notes: list[str]) -> Iterator[RunFailure]:
    listed = manifest.get("failures", [])
    for each in listed if isinstance(listed, list) else []:
        try:
            yield RunFailure(int(each["point"]), int(each["seed"]), str(each["sentence"]))
        except (KeyError, TypeError, ValueError, OverflowError):
            notes.append("A failure in manifest.json is damaged.")
