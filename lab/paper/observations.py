"""Store measurements on disk at once: one JSON object per line, one line per visit.

If a run is interrupted, its complete lines stay, and the next run appends to them.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from lab.paper.cells import Cell, MeasuredQuantity
from lab.paper.estimators import jitter_of_train, without_held_up

__all__ = ["ObservationFile", "Visit", "read_visits"]


@dataclass(frozen=True, slots=True)
class Visit:
    """One visit to a cell.

    ``values_ms`` are round-trip times, or the transit times of a train in the order of
    departure; ``sent`` counts the packets that should have yielded one.
    """

    cell: Cell
    round: int
    sent: int
    values_ms: tuple[float, ...]

    @property
    def value_ms(self) -> float:
        """The value of the visit: the median of round trips, or the jitter of a train.

        The median is not affected if the host takes the processor away for some milliseconds,
        which delays a few packets of a visit. For the same reason, jitter omits delayed packets.
        """
        if self.is_round_trips:
            return statistics.median(self.values_ms)
        return jitter_of_train(self.steady_ms)

    @property
    def raw_value_ms(self) -> float:
        """The value of all packets: the mean round trip, or the jitter of the whole train."""
        if self.is_round_trips:
            return statistics.fmean(self.values_ms)
        return jitter_of_train(self.values_ms)

    @property
    def steady_ms(self) -> list[float]:
        """The values without packets that the host delayed."""
        return without_held_up(self.values_ms)

    @property
    def is_round_trips(self) -> bool:
        """Whether the values are round-trip times; otherwise they are transit times."""
        return self.cell.metric == MeasuredQuantity.RTT.value

    def encode(self) -> str:
        """Return the line, with a resolution of nanoseconds."""
        values = [round(value, 6) for value in self.values_ms]
        kept = {"round": self.round, "sent": self.sent, "values_ms": values}
        return json.dumps(asdict(self.cell) | kept)

    @classmethod
    def decode(cls, line: str) -> Self:
        """Parse a line.

        Raises:
            ValueError, KeyError, TypeError: it is no line of this format.
        """
        data = json.loads(line)
        cell = Cell(data["cipher"], data["tunnels"], data["size"], data["metric"])
        return cls(cell, data["round"], data["sent"], tuple(data["values_ms"]))


class ObservationFile:
    """Append visits to a file, and write each to disk at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        _cut_broken_line(path)

    def append(self, visit: Visit) -> None:
        """Write one line."""
        with self._path.open("a") as file:
            file.write(visit.encode() + "\n")


def _cut_broken_line(path: Path) -> None:
    """Remove an incomplete last line, which a killed run may have left."""
    if path.exists():
        text = path.read_text()
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            path.write_text(whole)


def read_visits(path: Path) -> list[Visit]:
    """Return all visits of a file in the order of measurement, without an incomplete last line.

    Raises:
        FileNotFoundError: there are no measurements.
    """
    return list(_whole(path.read_text().splitlines(keepends=True)))


def _whole(lines: Iterable[str]) -> Iterable[Visit]:
    return (Visit.decode(line) for line in lines if line.endswith("\n"))
