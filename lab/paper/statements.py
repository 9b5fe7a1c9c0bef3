"""Compare the paper's statements with the rows: each has a bound, a number and a verdict.

The paper says "hardly", "about" and "steadiest". Each statement's ``meaning`` says how we interpret
this, so that the verdict is a comparison of numbers.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from lab.paper.cells import SIZES, TUNNELS, MeasuredQuantity
from lab.paper.estimators import estimate
from lab.paper.summary import Row

__all__ = ["Judgement", "judge", "noise_floor"]

_AES: Final = ("aes-128-cbc", "aes-192-cbc", "aes-256-cbc")
_OLD: Final = ("3des-cbc", *_AES)
_HARDLY: Final = 0.10
_ABOUT_HALF: Final = (0.35, 0.65)
_KEY_SIZE_MS: Final = 0.3
_STEADY: Final = (128, 256, 512)


@dataclass(frozen=True, slots=True)
class Judgement:
    """The result for one statement; ``agrees`` is None if the rows are not sufficient."""

    statement: str
    meaning: str
    found: str
    agrees: bool | None

    @property
    def verdict(self) -> str:
        """The verdict in words."""
        if self.agrees is None:
            return "not measured"
        return "agrees" if self.agrees else "does not agree"


class _Rows:
    """Rows by their cell; a missing one raises KeyError."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows = {(r.metric, r.cipher, r.tunnels, r.size): r for r in rows}

    def rtt(self, cipher: str, tunnels: int, size: int) -> Row:
        return self._rows[MeasuredQuantity.RTT.value, cipher, tunnels, size]

    def jitter(self, cipher: str, tunnels: int, size: int) -> Row:
        return self._rows[MeasuredQuantity.JITTER.value, cipher, tunnels, size]


def judge(rows: Sequence[Row]) -> list[Judgement]:
    """Return the results for the five statements, in the paper's order."""
    return [_attempt(each, _Rows(rows)) for each in _STATEMENTS]


def _attempt(statement: _Statement, rows: _Rows) -> Judgement:
    try:
        found, agrees = statement.test(rows)
    except KeyError:
        found, agrees = "cells are missing", None
    return Judgement(statement.text, statement.meaning, found, agrees)


@dataclass(frozen=True, slots=True)
class _Statement:
    text: str
    meaning: str
    test: Callable[[_Rows], tuple[str, bool | None]]


def _slowest(rows: _Rows) -> tuple[str, bool | None]:
    points = list(itertools.product(TUNNELS[1:], SIZES))
    gaps = {
        name: estimate(
            [
                rows.rtt("3des-cbc", *each).mean_ms / rows.rtt(name, *each).mean_ms - 1
                for each in points
            ]
        )
        for name in _AES
    }
    slowest = sum(
        all(rows.rtt("3des-cbc", *each).mean_ms > rows.rtt(name, *each).mean_ms for name in _AES)
        for each in points
    )
    shown = ", ".join(
        f"{_percent(gap.mean)} (± {100 * gap.half_width:.0f}) above {name}"
        for name, gap in gaps.items()
    )
    found = f"the slowest of four in {slowest} of {len(points)} cells; on average {shown}"
    return found, all(gap.low > 0 for gap in gaps.values())


def _one_and_two(rows: _Rows) -> tuple[str, bool | None]:
    found = [
        (rows.rtt(cipher, 2, size).mean_ms - rows.rtt(cipher, 1, size).mean_ms,
         rows.rtt(cipher, 2, size).mean_ms / rows.rtt(cipher, 1, size).mean_ms - 1)
        for cipher in _OLD for size in SIZES if size <= 256
    ]  # fmt: skip
    part = statistics.fmean(relative for _, relative in found)
    absolute = statistics.fmean(difference for difference, _ in found)
    shown = f"the second tunnel adds {absolute:.2f} ms, {_percent(part)}, on average"
    return shown, abs(part) <= _HARDLY


def _four_tunnels(rows: _Rows) -> tuple[str, bool | None]:
    with_, without = rows.rtt("3des-cbc", 4, 1024), rows.rtt("3des-cbc", 0, 1024)
    ratio = with_.mean_ms / without.mean_ms
    spread = ratio * math.hypot(
        with_.half_width_ms / with_.mean_ms, without.half_width_ms / without.mean_ms
    )
    found = (
        f"{with_.mean_ms:.2f} ms against {without.mean_ms:.2f} ms: "
        f"{_percent(ratio - 1)} higher (± {100 * spread:.0f})"
    )
    return found, _ABOUT_HALF[0] <= ratio - 1 <= _ABOUT_HALF[1]


def _key_sizes(rows: _Rows) -> tuple[str, bool | None]:
    spreads, beyond = {}, 0
    for point in itertools.product(TUNNELS[1:], SIZES):
        found = sorted((rows.rtt(name, *point) for name in _AES), key=lambda row: row.mean_ms)
        spreads[point] = found[-1].mean_ms - found[0].mean_ms
        noise = math.hypot(found[0].half_width_ms, found[-1].half_width_ms)
        beyond += spreads[point] - noise > _KEY_SIZE_MS
    worst = max(spreads, key=lambda point: spreads[point])
    median = statistics.median(spreads.values())
    below = sum(spread < _KEY_SIZE_MS for spread in spreads.values())
    shown = (
        f"median {median:.2f} ms; less than 0.3 ms in "
        f"{below} of {len(spreads)} cells, more beyond the intervals in {beyond}; "
        f"most with {worst[0]} tunnels and {worst[1]:,} bytes: "
        f"{spreads[worst]:.2f} ms"
    )
    return shown, median < _KEY_SIZE_MS and beyond == 0


def _steadiest(rows: _Rows) -> tuple[str, bool | None]:
    def spread(cipher: str, size: int) -> float:
        found = [rows.jitter(cipher, tunnels, size).mean_ms for tunnels in TUNNELS]
        return max(found) - min(found)

    by_size = {size: statistics.fmean(spread(cipher, size) for cipher in _OLD) for size in SIZES}
    inside = statistics.fmean(by_size[size] for size in _STEADY)
    outside = {size: by_size[size] for size in SIZES if size not in _STEADY}
    shown = ", ".join(f"{size:,} bytes {by_size[size]:.2f}" for size in SIZES)
    found = f"the curves lie apart by, in ms: {shown}"
    return found, all(inside < other for other in outside.values())


def _percent(part: float) -> str:
    return f"{100 * part:.0f} %"


_STATEMENTS: Final = (
    _Statement(
        "3DES is the slowest.",
        "Averaged over all cells with tunnels, its round trip exceeds that of each AES, beyond "
        "the 95 % interval of that average.",
        _slowest,
    ),
    _Statement(
        "Up to 256 bytes, one and two tunnels hardly differ.",
        "Round trips with two tunnels are within 10 % of those with one, on average over the "
        "paper's ciphers and 64, 128 and 256 bytes.",
        _one_and_two,
    ),
    _Statement(
        "At 1,024 bytes with 3DES and four tunnels the round trip is about 50 % higher than "
        "without.",
        "Between 35 and 65 % higher.",
        _four_tunnels,
    ),
    _Statement(
        "The three AES key sizes differ by less than 0.3 ms.",
        "The largest and the smallest of the three mean round trips do in the median cell with "
        "tunnels, and in none do they differ by more beyond their intervals.",
        _key_sizes,
    ),
    _Statement(
        "Jitter is steadiest for 128 to 512 bytes.",
        "The curves of no to four tunnels lie closer together at these sizes than at any other "
        "(largest less smallest jitter, mean over the paper's ciphers).",
        _steadiest,
    ),
)


def noise_floor(rows: Sequence[Row], metric: MeasuredQuantity) -> dict[int, float]:
    """Return, for each size, the range of the repetitions of the cell without tunnels in ms.

    This cell has no cipher, but it is measured once for each. The range is largest minus smallest.
    """
    found: dict[int, list[float]] = {}
    for row in rows:
        if row.metric == metric.value and row.tunnels == 0:
            found.setdefault(row.size, []).append(row.mean_ms)
    return {size: max(means) - min(means) for size, means in sorted(found.items())}
