"""Parsers of single settings of a scenario: a TOML value in, a checked value out.

Each parser raises a ValueError whose message completes "[section] setting ..." and says what to
write instead. Each parser accepts its own result, so that the same check applies to scenarios from
programs and from files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Final

from overlay.durations import parse_duration
from sims.scenario.parameters import Parameters

__all__ = [
    "duration",
    "integer",
    "label",
    "line",
    "names",
    "number",
    "one_of",
    "optional",
    "parameters",
    "seeds",
    "text",
    "truth",
]

MAX_SEEDS: Final = 1000
_NUMBER: Final = re.compile(r"\s*-?[0-9]{1,12}(\.[0-9]{0,9})?\s*")
_LABEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def truth(value: object) -> bool:
    """Parse true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {shown(value)}")  # noqa: TRY004 - the user's
    return value


def integer(lowest: int, highest: int) -> Callable[[object], int]:
    """Return a parser of whole numbers within a range."""

    def parse(value: object) -> int:
        if type(value) is not int or not lowest <= value <= highest:
            raise ValueError(
                f"must be a whole number from {lowest} to {highest}, not {shown(value)}"
            )
        return value

    return parse


def number(lowest: float, highest: float) -> Callable[[object], float]:
    """Return a parser of numbers within a range, both ends included."""

    def parse(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(  # noqa: TRY004 - the user's mistake
                f"must be a number from {lowest:g} to {highest:g}, not {shown(value)}"
            )
        if not lowest <= value <= highest:  # also refuses NaN
            raise ValueError(f"must lie between {lowest:g} and {highest:g}, not {shown(value)}")
        return float(value)

    return parse


def duration(lowest_s: float, highest_s: float) -> Callable[[object], float]:
    """Return a parser of durations: seconds, or a text such as "90s", "10m", "6h" or "2d"."""

    def parse(value: object) -> float:
        seconds = _seconds(value)
        if not lowest_s <= seconds <= highest_s:
            raise ValueError(
                f"must lie between {lowest_s:g} and {highest_s:g} seconds, not {shown(value)}"
            )
        return seconds

    return parse


def one_of(*known: str) -> Callable[[object], str]:
    """Return a parser of one word from a list."""

    def parse(value: object) -> str:
        if not isinstance(value, str) or value not in known:
            raise ValueError(f"must be one of {', '.join(known)}, not {shown(value)}")
        return value

    return parse


def names(*known: str) -> Callable[[object], tuple[str, ...]]:
    """Return a parser of a list of different words; the result has the order of ``known``."""
    parse_one = one_of(*known)

    def parse(value: object) -> tuple[str, ...]:
        if not isinstance(value, list | tuple):
            raise ValueError(  # noqa: TRY004 - the user's mistake
                f"must be a list of some of {', '.join(known)}, not {shown(value)}"
            )
        given = [parse_one(item) for item in value]
        return tuple(name for name in known if name in given)

    return parse


def label(value: object) -> str:
    """Parse a name that is safe in a file name."""
    if not isinstance(value, str) or _LABEL.fullmatch(value) is None:
        raise ValueError(
            "must be 1 to 64 letters, digits, dots, dashes or underscores that start with a "
            f"letter or a digit, not {shown(value)}"
        )
    return value


def text(value: object) -> str:
    """Parse a text of at most 2,000 characters without control characters."""
    if not isinstance(value, str):
        raise ValueError(f"must be a text in quotes, not {shown(value)}")  # noqa: TRY004 - the user's
    if len(value) > 2000 or any(ord(c) < 32 and c != "\n" for c in value):
        raise ValueError("must be at most 2000 characters without control characters")
    if any(0xD800 <= ord(c) <= 0xDFFF or ord(c) == 127 for c in value):
        raise ValueError("must be Unicode text without control characters")
    return value


def line(value: object) -> str:
    """Parse a text of one line that is not empty."""
    parsed = text(value)
    if not parsed.strip() or "\n" in parsed or len(parsed) > 500:
        raise ValueError(f"must be 1 to 500 characters on one line, not {shown(value)}")
    return parsed


def parameters(value: object) -> Parameters:
    """Parse a table of plain values. The module that uses it checks the names."""
    if not isinstance(value, Mapping):
        raise ValueError(f"must be a table of names and values, not {shown(value)}")  # noqa: TRY004 - likewise
    return value if isinstance(value, Parameters) else Parameters(value)


def optional(parse: Callable[[object], float]) -> Callable[[object], float | None]:
    """Return a parser that returns None for None (not given)."""
    return lambda value: None if value is None else parse(value)


def seeds(value: object) -> tuple[int, ...]:
    """Parse a number of seeds (1, 2, ... N) or a list of seeds."""
    if type(value) is int:
        if not 1 <= value <= MAX_SEEDS:
            raise ValueError(f"must be 1 to {MAX_SEEDS} seeds, not {value}")
        return tuple(range(1, value + 1))
    one = integer(0, 2**63 - 1)
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= MAX_SEEDS:
        raise ValueError(f"must be a number of seeds or a list of them, not {shown(value)}")
    listed = tuple(one(seed) for seed in value)
    if len(set(listed)) != len(listed):
        raise ValueError(f"names a seed twice, which would count one run double: {shown(value)}")
    return listed


def _seconds(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        # An int beyond the float range becomes infinity, which the caller's range refuses.
        return float(value) if abs(value) < 1e18 else math.inf
    if isinstance(value, str):
        seconds = parse_duration(value)
        if seconds is not None:
            return seconds
        if value.strip().startswith("-"):
            raise ValueError(
                f'must not be negative; write a time such as "90s", not {shown(value)}'
            )
        if _NUMBER.fullmatch(value):
            raise ValueError(
                f'must say its unit: write "{value.strip()}s" for seconds, or "m", "h" or "d" '
                "after the number"
            )
    raise ValueError(f'must be seconds, or a time such as "90s", "10m" or "6h", not {shown(value)}')


def shown(value: object) -> str:
    """Return a user's value for a message, shortened because it may be very long."""
    try:
        full = f'"{value}"' if isinstance(value, str) else repr(value)
    except ValueError:  # an integer of more digits than Python prints
        return "a number of thousands of digits"
    return full if len(full) <= 80 else f"{full[:77]}..."
