"""What was measured, on disk as it comes: one JSON object a line, one line a visit.

A run that is interrupted keeps every whole line, and the next one goes on behind it.
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
        """What the visit contributes to its cell.

        Of round trips the median: a processor that was taken away for some milliseconds hits a
        few packets of a visit, and is no property of the tunnels. Of a train the jitter without
        such packets.
        """
        if self.is_round_trips:
            return statistics.median(self.values_ms)
        return jitter_of_train(self.steady_ms)

    @property
    def raw_value_ms(self) -> float:
        """The same of all packets: the mean round trip, the jitter of the whole train."""
        if self.is_round_trips:
            return statistics.fmean(self.values_ms)
        return jitter_of_train(self.values_ms)

    @property
    def steady_ms(self) -> list[float]:
        """The values without those that the host held up."""
        return without_held_up(self.values_ms)

    @property
    def is_round_trips(self) -> bool:
        """Whether the values are round-trip times, or else transit times."""
        return self.cell.metric == MeasuredQuantity.RTT.value

    def encode(self) -> str:
        """Return the line, nanoseconds kept."""
        values = [round(value, 6) for value in self.values_ms]
        kept = {"round": self.round, "sent": self.sent, "values_ms": values}
        return json.dumps(asdict(self.cell) | kept)

    @classmethod
    def decode(cls, line: str) -> Self:
        """Parse a line.

        Raises:
            ValueError, KeyError, TypeError: it is none of ours.
        """
        data = json.loads(line)
        cell = Cell(data["cipher"], data["tunnels"], data["size"], data["metric"])
        return cls(cell, data["round"], data["sent"], tuple(data["values_ms"]))


class ObservationFile:
    """Appends visits to a file, each at once on disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        _cut_broken_line(path)

    def append(self, visit: Visit) -> None:
        """Write one line."""
        with self._path.open("a") as file:
            file.write(visit.encode() + "\n")


def _cut_broken_line(path: Path) -> None:
    """A run that was killed may have left half a line."""
    if path.exists():
        text = path.read_text()
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            path.write_text(whole)


def read_visits(path: Path) -> list[Visit]:
    """Return all visits of a file in the order of measurement; an unfinished last line is left out.

    Raises:
        FileNotFoundError: nothing was measured.
    """
    return list(_whole(path.read_text().splitlines(keepends=True)))


def _whole(lines: Iterable[str]) -> Iterable[Visit]:
    return (Visit.decode(line) for line in lines if line.endswith("\n"))
