"""Write and read the table of observations, one per row; damaged files can be read as well."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sims.observations import Observation, Observations

__all__ = ["HEADER", "read_table", "table_lines"]

HEADER: Final = "scenario,seed,time_s,metric,label,value\n"
_COLUMNS: Final = HEADER.strip().split(",")
_BEYOND: Final = 1e15
"""Larger values count as damaged. No measurement comes near it, and squares stay finite."""


def table_lines(point: str, seed: int, observations: Observations) -> Iterator[str]:
    """Yield the rows of one run, without the header."""
    start = f"{_cell(point)},{seed},"
    names: dict[tuple[str, str], str] = {}
    for time_s, metric, label, value in observations:
        name = names.get((metric, label))
        if name is None:
            name = names[metric, label] = f"{_cell(metric)},{_cell(label)}"
        yield f"{start}{_number(time_s)},{name},{_number(value)}\n"


def read_table(path: Path) -> Iterator[tuple[str, int, Observation] | None]:
    """Yield every row as (point, seed, observation); None stands for a damaged row.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        lines = (line.replace("\0", "") for line in file)
        try:
            for cells in csv.reader(lines):
                if cells != _COLUMNS:
                    yield _row(cells)
        except (
            csv.Error
        ):  # a field exceeds the limit of the csv module, so the rest cannot be split into rows
            yield None


def _row(cells: list[str]) -> tuple[str, int, Observation] | None:
    try:
        point, seed, time_s, metric, label, value = cells
        read = Observation(float(time_s), metric, label, float(value))
        number = int(seed)
    except ValueError:
        return None
    if not metric or not (
        abs(read.time_s) < _BEYOND and abs(read.value) < _BEYOND
    ):  # also false for NaN
        return None
    return point, number, read


def _number(value: float) -> str:
    text = repr(value)
    return text.removesuffix(".0")


def _cell(text: str) -> str:
    if not any(character in text for character in ',"\r\n'):
        return text
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow([text])
    return buffer.getvalue()
