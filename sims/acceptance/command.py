"""``overlay sim accept``: run acceptance experiments, draw them, and set the exit status."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from overlay.errors import BackendError
from overlay.logs import configure_logging
from overlay.settings import declared
from sims.acceptance.experiment_result import CheckedValue, ExperimentResult
from sims.acceptance.figures import draw
from sims.acceptance.registry import EXPERIMENTS
from sims.acceptance.runner import parse_overrides, prepared, run, selected
from sims.scenario.running import AcceptSettings
from sims.studies.results.directory import free_directory

__all__ = ["accept", "run_each", "run_one", "table"]

_HELD: Final = 0
_NOT_HELD: Final = 1


def accept(arguments: argparse.Namespace) -> int:
    """Run what ``arguments`` name: ``experiments``, ``quick``, ``set``, ``out``, ``jobs``.

    Each verdict is told, and written to ``out`` (a new directory below sim-results if None), as
    soon as it is there: the whole set takes hours, and an interrupted one keeps what has ended.

    Raises:
        ConfigurationError: an unknown experiment, or a setting that does not fit.
        BackendError: results cannot be written.
    """
    given = {name: getattr(arguments, name, None) for name in declared(AcceptSettings)}
    how = AcceptSettings(**{name: value for name, value in given.items() if value is not None})
    out = arguments.out if arguments.out is not None else free_directory("accept")
    _make(out)  # report an unwritable directory now, not after hours
    verdicts: list[ExperimentResult] = []
    for verdict in run_each(
        arguments.experiments,
        quick=arguments.quick,
        seeds=how.seeds,
        overrides=parse_overrides(arguments.set, EXPERIMENTS),
        jobs=how.jobs,
    ):
        verdicts = in_order([*verdicts, verdict])
        _say(f"{verdict.name} {_word(verdict)} after {verdict.seconds:.0f} s")
        write(verdicts, out, draws=[verdict])
    if getattr(arguments, "json", False):
        print(json.dumps([_plain(verdict) for verdict in verdicts]))  # noqa: T201 - a command line
    else:
        print(f"{table(verdicts)}\nResults: {out}")  # noqa: T201 - a command line
    return _HELD if all(verdict.passed for verdict in verdicts) else _NOT_HELD


def in_order(verdicts: Iterable[ExperimentResult]) -> list[ExperimentResult]:
    """Return verdicts in the order of the registry."""
    names = list(EXPERIMENTS)
    return sorted(verdicts, key=lambda verdict: names.index(verdict.name))


def run_each(
    names: Sequence[str],
    *,
    quick: bool,
    seeds: int | None = None,
    overrides: Mapping[str, Mapping[str, str]] | None = None,
    jobs: int = 1,
) -> Iterator[ExperimentResult]:
    """Run the named experiments, ``jobs`` at a time; yield each verdict when it is known.

    Raises:
        ConfigurationError: an unknown experiment, or a setting that does not fit; before any
            of them runs.
    """
    chosen, given = selected(names, EXPERIMENTS), dict(overrides or {})
    prepared(names, EXPERIMENTS, quick=quick, overrides=given)
    one = partial(run_one, quick=quick, seeds=seeds, overrides=given)
    if jobs == 1:
        yield from map(one, chosen)
        return
    quiet = partial(configure_logging, "error")
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=quiet) as pool:
        for ended in as_completed([pool.submit(one, name) for name in chosen]):
            yield ended.result()


def run_one(
    name: str,
    *,
    quick: bool,
    seeds: int | None,
    overrides: Mapping[str, Mapping[str, str]],
) -> ExperimentResult:
    """Run one experiment and return its result; the arguments are those of :func:`run_each`."""
    own = {name: overrides[name]} if name in overrides else {}
    (verdict,) = run([name], EXPERIMENTS, quick=quick, seeds=seeds, progress=_say, overrides=own)
    return verdict


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)  # noqa: T201 - progress


def table(verdicts: Sequence[ExperimentResult]) -> str:
    """Return one line per verdict, with the point nearest to its limit."""
    lines = []
    for verdict in verdicts:
        lines.append(f"{verdict.name:4} {_word(verdict)}  {verdict.title} ({verdict.tolerance})")
        lines += [f"       {point}" for point in _to_show(verdict)]
    held = sum(verdict.passed for verdict in verdicts)
    return "\n".join([*lines, f"{held} of {len(verdicts)} hold."])


def _word(verdict: ExperimentResult) -> str:
    return "holds" if verdict.passed else "FAILS"


def _to_show(verdict: ExperimentResult) -> list[CheckedValue]:
    failed = [point for point in verdict.points if not point.passed]
    return failed or list(verdict.points[:3])


def write(
    verdicts: Sequence[ExperimentResult],
    directory: Path,
    *,
    draws: Sequence[ExperimentResult] | None = None,
) -> None:
    """Write figures, ``verdicts.json`` and ``acceptance.md`` into a directory.

    Args:
        verdicts: all verdicts so far.
        directory: where to write.
        draws: the verdicts whose figures are still missing; None means all.

    Raises:
        BackendError: a file cannot be written.
    """
    _make(directory)
    try:
        for verdict in verdicts if draws is None else draws:
            draw(verdict, directory)
        plain = json.dumps([_plain(verdict) for verdict in verdicts], indent=1)
        (directory / "verdicts.json").write_text(plain + "\n", encoding="utf-8")
        (directory / "acceptance.md").write_text(markdown(verdicts), encoding="utf-8")
    except OSError as error:
        raise _unwritable(directory, error) from error


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise _unwritable(directory, error) from error


def _unwritable(directory: Path, error: OSError) -> BackendError:
    reason = error.strerror or os.strerror(error.errno or 0)
    return BackendError(f"The results cannot be written to {directory}: {reason}.")


def markdown(verdicts: Sequence[ExperimentResult]) -> str:
    """Return the points of all verdicts as tables in Markdown."""
    lines: list[str] = []
    for verdict in verdicts:
        word = "holds" if verdict.passed else "**fails**"
        settings = ", ".join(f"`{name}` {_short(v)}" for name, v in verdict.settings.items())
        lines += [
            f"### {verdict.name}: {verdict.title} ({word})",
            "",
            f"Tolerance: {verdict.tolerance}. Settings: {settings}.",
            *([f"Note: {verdict.note}."] if verdict.note else []),
            "",
            "| curve | x | expected | measured | allowed |",
            "|---|---|---|---|---|",
            *[_row(point) for point in verdict.points],
            "",
        ]
    return "\n".join(lines)


def _row(point: CheckedValue) -> str:
    expected = "" if point.expected is None else f"{point.expected:.4g}"
    mark = "" if point.passed else " (!)"
    return (
        f"| {point.curve} | {point.x:g} | {expected} | {point.measured:.4g}{mark} "
        f"| {point.low:.4g} to {point.high:.4g} |"
    )


def _short(value: object) -> str:
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value))
    return str(value)


def _plain(verdict: ExperimentResult) -> dict[str, object]:
    """Return a verdict for JSON. The open end of a band and NaN become null."""
    points = [
        {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in (asdict(point) | {"passed": point.passed}).items()
        }
        for point in verdict.points
    ]
    return asdict(verdict) | {"points": points, "passed": verdict.passed}
