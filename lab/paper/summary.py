"""Compute one row for each cell, which figures and statements use."""

from __future__ import annotations

import csv
import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from lab.paper.cells import Cell, MeasuredQuantity
from lab.paper.estimators import estimate
from lab.paper.observations import Visit

__all__ = ["Row", "read_rows", "summarise", "write_rows"]

_DECIMALS = 4


@dataclass(frozen=True, slots=True)
class Row:
    """A cell's result; times are in ms.

    ``mean_ms`` is the trimmed mean of the ``visits``' values, with its 95 % interval. A value is
    the median round trip, or the settled jitter without packets that the host delayed
    (docs/paper-experiment.md). ``sd_ms`` is the standard deviation of these values. ``raw_ms`` is
    the mean of all packets, without these precautions. ``min_ms``, ``p50_ms`` and ``p95_ms`` are of
    all ``n`` packets: of round-trip times, or of the differences |D| of successive transit times
    from which jitter is computed. ``held_up`` and ``lost`` count packets.
    """

    figure: int
    metric: str
    cipher: str
    tunnels: int
    size: int
    mean_ms: float
    ci95_low_ms: float
    ci95_high_ms: float
    sd_ms: float
    visits: int
    n: int
    lost: int
    held_up: int
    min_ms: float
    p50_ms: float
    p95_ms: float
    raw_ms: float

    @property
    def half_width_ms(self) -> float:
        """Half of the interval's width."""
        return (self.ci95_high_ms - self.ci95_low_ms) / 2


def summarise(visits: Sequence[Visit]) -> list[Row]:
    """Return one row for each cell with at least two visits, in the figures' order."""
    by_cell: dict[Cell, list[Visit]] = defaultdict(list)
    for visit in visits:
        by_cell[visit.cell].append(visit)
    rows = [_row(cell, found) for cell, found in by_cell.items() if len(found) > 1]
    return sorted(rows, key=lambda row: (row.figure, row.cipher, row.tunnels, row.size))


def _row(cell: Cell, visits: Sequence[Visit]) -> Row:
    found = estimate([visit.value_ms for visit in visits])
    packets = sorted(value for visit in visits for value in _packet_values(visit))
    numbers = {
        "mean_ms": found.mean,
        "ci95_low_ms": found.low,
        "ci95_high_ms": found.high,
        "sd_ms": found.deviation,
        "min_ms": packets[0],
        "p50_ms": statistics.median(packets),
        "raw_ms": statistics.fmean(visit.raw_value_ms for visit in visits),
        "p95_ms": packets[math.ceil(0.95 * len(packets)) - 1],
    }
    return Row(
        figure=cell.figure,
        metric=cell.metric,
        cipher=cell.cipher,
        tunnels=cell.tunnels,
        size=cell.size,
        visits=len(visits),
        n=len(packets),
        held_up=sum(len(visit.values_ms) - len(visit.steady_ms) for visit in visits),
        lost=sum(visit.sent - len(visit.values_ms) for visit in visits),
        **{name: round(number, _DECIMALS) for name, number in numbers.items()},
    )


def _packet_values(visit: Visit) -> list[float]:
    values = visit.values_ms
    if visit.cell.metric == MeasuredQuantity.RTT.value:
        return list(values)
    return [abs(after - before) for before, after in itertools.pairwise(values)]


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """Write the CSV."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def read_rows(path: Path) -> list[Row]:
    """Read a CSV file.

    Raises:
        FileNotFoundError: there is none.
        ValueError, KeyError: it is no file of this format.
    """
    with path.open(newline="") as file:
        return [_parse(line) for line in csv.DictReader(file)]


def _parse(line: dict[str, str]) -> Row:
    converters = {"int": int, "float": float, "str": str}
    return Row(
        **{field.name: converters[str(field.type)](line[field.name]) for field in fields(Row)}
    )
