"""Read session traces in the forms of different programs.

The first line that is neither empty nor a comment distinguishes three forms:

=========  ====================================  =============================================
form       first line                            each further line
=========  ====================================  =============================================
sessions   names with node, on_s and off_s       one session of a node
events     names with time_s, node and event     a node that comes up or goes down
OverSim    ``0.5 1 JOIN`` (no names)             time in seconds, number of the node, command
=========  ====================================  =============================================

A line with names may have them in any order, in capitals, with spaces around them and with
other columns beside them. Commas, semicolons or tabs part the columns. The name of a time says its
unit: _ms, _s, _min or _h. A byte-order mark, empty lines and lines that begin with # are left out.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from overlay.durations import UNITS_S

__all__ = ["Row", "TraceFault", "sessions_of"]

Row = tuple[int, list[str]]
"""A line's number and its cells."""

Session = tuple[float, float]

_UNITS_S: Final = {name: UNITS_S[name] for name in ("ms", "s", "min", "h")} | {"sec": UNITS_S["s"]}
"""Units in the names of columns."""
_TIME: Final = re.compile(r"(on|off|start|end|begin|join|leave|time|timestamp|t)_([a-z]+)")
_BARE_TIME: Final = re.compile(r"on|off|start|end|begin|join|leave|time|timestamp|t")
_PLACES: Final[Mapping[str, str]] = {
    "start": "on", "begin": "on", "join": "on", "end": "off", "leave": "off",
    "timestamp": "time", "t": "time",
}  # fmt: skip
_NODE: Final = ("node", "peer", "id", "node_id", "nodeid", "peer_id", "host", "name")
_EVENT: Final = ("event", "state", "action", "type", "command")
_UP: Final = ("up", "join", "on", "online", "on-line", "start", "connect", "1", "true")
_DOWN: Final = ("down", "leave", "off", "offline", "off-line", "stop", "disconnect", "0", "false")
_STILL_ON: Final = ("", "-", "none", "null", "nan", "on", "online", "on-line", "still on-line")
"""Texts that stand for the end of a session which continues at the end of the trace."""

_OVERSIM: Final = re.compile(r"\s*[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?\s+[0-9]+\s+[A-Za-z_]+\b.*")
_MAX_NAME: Final = 100
_MAX_SECONDS: Final = 1e10
_LEAST_SESSION_S: Final = 0.001
"""Shorter sessions are refused, because they indicate an error such as a wrong unit."""


class TraceFault(Exception):
    """An error in a line: its number, and the text after "Line N of the trace FILE"."""

    def __init__(self, line: int, words: str) -> None:
        super().__init__(words)
        self.line, self.words = line, words


def sessions_of(lines: Iterable[str]) -> dict[str, list[Session]]:
    """Return the sessions of each node by its name, in the order of appearance.

    Raises:
        TraceFault: a line does not fit the form of the trace.
        csv.Error: the text is not CSV.
    """
    numbered = enumerate(lines, start=1)
    told = ((number, line) for number, line in numbered if _tells(line))
    number, first = next(told, (1, ""))
    first = first.removeprefix("\ufeff")
    if _OVERSIM.fullmatch(first.strip()):
        return _of_events(_oversim([(number, first)], told))
    delimiter = max(",;\t", key=first.count)
    names = [_plain(name) for name in next(csv.reader([first], delimiter=delimiter), [])]
    rows = (
        (line, [cell.strip() for cell in next(csv.reader([text], delimiter=delimiter))])
        for line, text in told
    )
    if _place(names, _EVENT) is not None:
        return _of_events(_events(number, names, rows))
    return _of_sessions(number, names, rows)


def _tells(line: str) -> bool:
    bare = line.removeprefix("\ufeff").strip()
    return bool(bare) and not bare.startswith("#")


def _plain(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().strip('"').lower())


def _place(names: Sequence[str], known: Sequence[str]) -> int | None:
    return next((place for place, name in enumerate(names) if name in known), None)


def _times(line: int, names: Sequence[str], wanted: Sequence[str]) -> list[tuple[int, float]]:
    """Return the column and the unit in seconds of each wanted time."""
    found: dict[str, tuple[int, float]] = {}
    bare = next((name for name in names if _BARE_TIME.fullmatch(name)), None)
    for place, name in enumerate(names):
        matched = _TIME.fullmatch(name)
        if matched is not None and matched[2] in _UNITS_S:
            found.setdefault(_PLACES.get(matched[1], matched[1]), (place, _UNITS_S[matched[2]]))
    if all(each in found for each in wanted):
        return [found[each] for each in wanted]
    if bare is not None:
        raise TraceFault(line, f"must say the unit of {bare}: write {bare}_s or {bare}_ms")
    raise TraceFault(
        line,
        "must be node,on_s,off_s (sessions) or time_s,node,event (up and down), with other columns "
        "beside them if need be",
    )


def _of_sessions(line: int, names: Sequence[str], rows: Iterable[Row]) -> dict[str, list[Session]]:
    node = _place(names, _NODE)
    (on, on_unit), (off, off_unit) = _times(line, names, ("on", "off"))
    if node is None:
        raise TraceFault(line, "must name a column node")
    found: dict[str, list[Session]] = {}
    open_ones: list[tuple[int, str, float]] = []
    last = 0.0
    for number, row in rows:
        name = _name(number, row, node)
        began = _seconds(number, row, on, on_unit)
        last = max(last, began)
        sessions = found.setdefault(name, [])
        if len(row) > off and row[off].lower() in _STILL_ON:
            open_ones.append((number, name, began))
            continue
        ended = _seconds(number, row, off, off_unit)
        last = max(last, ended)
        if ended == began:
            continue  # the node was seen only once, so the session has no length
        if not began <= ended - _LEAST_SESSION_S:
            raise TraceFault(number, _NO_SESSION)
        sessions.append((began, ended))
    for _number, name, began in open_ones:
        if last - began >= _LEAST_SESSION_S:
            found[name].append((began, last))  # the session ends with the trace
    return {name: sessions for name, sessions in found.items() if sessions}


_NO_SESSION: Final = (
    "is no session; write a node's name and two times, the second at least a millisecond after "
    "the first, as in peer-a,0,5400"
)


def _name(line: int, row: Sequence[str], place: int) -> str:
    if len(row) <= place or not 0 < len(row[place]) <= _MAX_NAME or "\0" in row[place]:
        raise TraceFault(line, f"has no node's name of 1 to {_MAX_NAME} characters")
    return row[place]


def _seconds(line: int, row: Sequence[str], place: int, unit: float) -> float:
    try:
        value = float(row[place]) * unit
    except (IndexError, ValueError):
        value = math.nan
    if 1e12 <= value < 1e14 and unit == 1.0:
        raise TraceFault(line, "has a time that looks like milliseconds; name its column ..._ms")
    if not 0 <= value <= _MAX_SECONDS:
        raise TraceFault(line, _NO_SESSION)
    return value


Event = tuple[int, float, str, bool]
"""Line number, time in seconds, node, and whether it goes on line."""


def _events(line: int, names: Sequence[str], rows: Iterable[Row]) -> Iterator[Event]:
    node, event = _place(names, _NODE), _place(names, _EVENT)
    ((time, unit),) = _times(line, names, ("time",))
    if node is None or event is None:
        raise TraceFault(line, "must name a column node")
    for number, row in rows:
        word = row[event].lower() if len(row) > event else ""
        if word not in (*_UP, *_DOWN):
            raise TraceFault(number, f"has the event {word[:20]!r}; write up or down")
        yield number, _seconds(number, row, time, unit), _name(number, row, node), word in _UP


def _oversim(first: list[tuple[int, str]], rest: Iterable[tuple[int, str]]) -> Iterator[Event]:
    """Read files of OverSim's GlobalTraceManager; commands without churn are ignored."""
    for number, line in (*first, *rest):
        if not _OVERSIM.fullmatch(line.strip()):
            raise TraceFault(number, "is not OverSim's form: a time, a node and a command")
        time, node, command, *_arguments = line.split()
        if command.upper() in ("JOIN", "LEAVE"):
            yield number, _seconds(number, [time], 0, 1.0), node, command.upper() == "JOIN"


def _of_events(events: Iterable[Event]) -> dict[str, list[Session]]:
    """Pair "up" with "down" events. If "down" is first, the session began with the trace."""
    listed = list(events)
    ordered = sorted(listed, key=lambda each: each[1])
    begins = ordered[0][1] if ordered else 0.0
    ends = ordered[-1][1] if ordered else 0.0
    found: dict[str, list[Session]] = {node: [] for _line, _time, node, _up in listed}
    since: dict[str, float] = {}
    seen: set[str] = set()
    for _line, time, node, up in ordered:
        if up:
            since.setdefault(node, time)  # a repeated "up" changes nothing
        elif node in since or node not in seen:
            found[node].append((since.pop(node, begins), time))
        seen.add(node)
    for node, began in since.items():
        found[node].append((began, ends))
    whole = {
        node: [each for each in sessions if each[1] - each[0] >= _LEAST_SESSION_S]
        for node, sessions in found.items()
    }
    return {node: sessions for node, sessions in whole.items() if sessions}
