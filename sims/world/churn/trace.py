"""Read traces of sessions: a CSV file with one session per line, or another known form.

::

    node,on_s,off_s
    peer-a,0,5400
    peer-a,9000,10800
    peer-b,60.5,7200

``node`` is any name; ``on_s`` and ``off_s`` are seconds from one common start. The sessions
of one node last a millisecond at least and must not overlap. The gaps between them are its
absences. :mod:`sims.world.churn.trace_formats` has the other forms. A file has at most 64 MiB and
2,000,000 lines, so that a wrong file is refused before it fills the memory.
"""

from __future__ import annotations

import csv
import math
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final, TextIO

from overlay.errors import ConfigurationError
from sims.world.churn.events import ChurnEvent
from sims.world.churn.trace_formats import TraceFault, sessions_of

__all__ = ["Trace", "read_trace"]

_MAX_BYTES: Final = 64 * 2**20
_MAX_LINES: Final = 2_000_000
_MAX_LINE: Final = 400


@dataclass(frozen=True, slots=True)
class Trace:
    """The sessions of all nodes, in the order of the file; those of one node are in time order."""

    sessions: tuple[tuple[tuple[float, float], ...], ...]

    @property
    def sessions_s(self) -> tuple[float, ...]:
        """The lengths of all sessions."""
        return tuple(off - on for node in self.sessions for on, off in node)

    @property
    def absences_s(self) -> tuple[float, ...]:
        """The lengths of all gaps between two sessions of a node."""
        gaps = (
            later[0] - earlier[1] for node in self.sessions for earlier, later in pairwise(node)
        )
        return tuple(gap for gap in gaps if gap > 0)

    def replay(self, duration_s: float = math.inf) -> Iterator[ChurnEvent]:
        """Yield the events of the trace in order of time, with nodes numbered by appearance."""
        events = [
            ChurnEvent(time_s, number, online)
            for number, node in enumerate(self.sessions)
            for session in node
            for time_s, online in zip(session, (True, False), strict=True)
        ]
        # Off before on, because a node may leave and return at the same time.
        for event in sorted(events):
            if event.time_s <= duration_s:
                yield event


def read_trace(path: Path) -> Trace:
    """Read a trace file.

    Raises:
        ConfigurationError: the file cannot be read, or a line is not a session; the message
            names the file, the line and the expected form.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(
            found.st_mode
        ):  # opening a pipe would block until a program writes to it
            what = "a directory" if stat.S_ISDIR(found.st_mode) else "no regular file"
            raise ValueError(f"it is {what}")  # noqa: TRY301 - said below, as of other files
        if found.st_size > _MAX_BYTES:
            raise ConfigurationError(
                f"The trace {path} is larger than 64 MiB; cut it to the nodes that you need."
            )
        with path.open(encoding="utf-8", newline="") as file:
            return _parse(path, file)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ConfigurationError(
            f"The trace {path} cannot be read: {_reason(error)}; "
            "it must be a text file in UTF-8 whose first line is node,on_s,off_s."
        ) from error


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "it is no UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error)


def _parse(path: Path, file: TextIO) -> Trace:
    try:
        sessions = sessions_of(_short_lines(path, file))
    except TraceFault as fault:
        raise ConfigurationError(f"Line {fault.line} of the trace {path} {fault.words}.") from fault
    except csv.Error as error:
        raise ConfigurationError(f"The trace {path} is no CSV file: {error}.") from error
    if not sessions:
        raise ConfigurationError(f"The trace {path} has no session.")
    return Trace(tuple(_ordered(path, name, one) for name, one in sessions.items()))


def _short_lines(path: Path, file: TextIO) -> Iterable[str]:
    number = 0
    while line := file.readline(_MAX_LINE):
        number += 1
        if number > _MAX_LINES:
            raise ConfigurationError(f"The trace {path} has more than {_MAX_LINES:,} lines.")
        if len(line) >= _MAX_LINE:
            raise ConfigurationError(
                f"Line {number} of the trace {path} is longer than {_MAX_LINE} characters."
            )
        yield line


def _ordered(
    path: Path, name: str, sessions: list[tuple[float, float]]
) -> tuple[tuple[float, float], ...]:
    ordered = sorted(sessions)
    for earlier, later in pairwise(ordered):
        if later[0] < earlier[1]:
            raise ConfigurationError(
                f"The sessions of {name!r} in the trace {path} overlap at {later[0]:g} s; "
                "a node cannot come on line twice."
            )
    return tuple(ordered)
