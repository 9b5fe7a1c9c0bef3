"""Delays between regions: every host is in one region of a matrix.

A matrix file is CSV: a header with the names of the regions, then one row per region with the
one-way delays to all regions, in milliseconds::

    ,Berlin,Tokyo
    Berlin,4,75.3
    Tokyo,75.3,4

A fixed hash of its number determines the region of a host, so that it does not depend on other
random draws. Each datagram takes up to a tenth longer than the matrix says, as in queues.
"""

from __future__ import annotations

import csv
import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Final

from overlay.errors import ConfigurationError
from sims.world.latency.cities import CITIES, great_circle_km, one_way_s

__all__ = ["Geographic", "Matrix", "read_matrix", "region_of", "shipped_matrix"]

_QUEUES: Final = 0.1
_MAX_REGIONS: Final = 1000
_MAX_BYTES: Final = 16 * 2**20
_MAX_DELAY_MS: Final = 60_000.0


@dataclass(frozen=True, slots=True)
class Matrix:
    """Regions and the one-way delays in seconds from each (row) to each (column)."""

    regions: tuple[str, ...]
    one_way_s: tuple[tuple[float, ...], ...]


@lru_cache(maxsize=1)
def shipped_matrix() -> Matrix:
    """Return the matrix of ``sims.world.latency.cities``."""
    delays = tuple(
        tuple(one_way_s(great_circle_km(one[1:], other[1:])) for other in CITIES) for one in CITIES
    )
    return Matrix(tuple(name for name, _, _ in CITIES), delays)


@lru_cache(maxsize=1 << 20)
def region_of(host: int, regions: int) -> int:
    """Return the region of a host: a hash of its number, uniform over the regions."""
    digest = hashlib.sha256(b"latency region\0" + host.to_bytes(8, "big")).digest()
    return int.from_bytes(digest[:8], "big") % regions


class Geographic:
    """The delay between the regions of two hosts, plus up to a tenth at random."""

    def __init__(self, matrix: Matrix) -> None:
        self.matrix = matrix

    def delay_s(self, source: int, destination: int, rng: Random) -> float:
        """Return the delay of one datagram."""
        count = len(self.matrix.regions)
        row = self.matrix.one_way_s[region_of(source, count)]
        return row[region_of(destination, count)] * (1 + _QUEUES * rng.random())


def read_matrix(path: Path) -> Matrix:
    """Read a matrix file.

    Raises:
        ConfigurationError: the file cannot be read or is not a square matrix of delays.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigurationError(f"The latency matrix {path} is larger than 16 MiB.")
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "no CSV text"
        raise ConfigurationError(f"The latency matrix {path} cannot be read: {reason}.") from error
    return _matrix(path, rows)


def _matrix(path: Path, rows: list[list[str]]) -> Matrix:
    regions = tuple(name.strip() for name in rows[0][1:]) if rows else ()
    if not 1 <= len(regions) <= _MAX_REGIONS or len(rows) != len(regions) + 1:
        raise ConfigurationError(
            f"The latency matrix {path} is not square; write a first row with 1 to "
            f"{_MAX_REGIONS} regions and then one row for each of them."
        )
    for number, row in enumerate(rows[1:], start=2):
        if row[0].strip() != regions[number - 2] or len(row) != len(regions) + 1:
            raise ConfigurationError(
                f"Row {number} of the latency matrix {path} must be {regions[number - 2]!r} "
                f"and {len(regions)} delays."
            )
    delays = tuple(tuple(_delay_s(path, cell) for cell in row[1:]) for row in rows[1:])
    return Matrix(regions, delays)


def _delay_s(path: Path, cell: str) -> float:
    try:
        milliseconds = float(cell)
    except ValueError:
        milliseconds = math.nan
    if not 0 <= milliseconds <= _MAX_DELAY_MS:
        raise ConfigurationError(
            f"{cell!r} in the latency matrix {path} is no delay; write milliseconds from 0 to "
            f"{_MAX_DELAY_MS:.0f}."
        )
    return milliseconds / 1000
