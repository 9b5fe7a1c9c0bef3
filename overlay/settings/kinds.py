"""Kinds of settings: how a value is checked, and the words that describe what is permitted.

The parser of a kind accepts its own results, so that the same check applies to values from files,
from options and from programs. It raises ValueError with a message that continues the name of the
setting, such as "must lie between 1 and 5, not 6", without a full stop.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from overlay.durations import parse_duration
from overlay.settings.shown import plain_number, shown

__all__ = ["FLAG", "Kind", "many", "number", "one_of", "or_zero", "seconds", "some_of", "whole"]

T = TypeVar("T")

_WHOLE: Final = re.compile(r"\s*[+-]?[0-9_]{1,40}\s*")
_BARE_NUMBER: Final = re.compile(r"\s*-?[0-9]{1,12}(\.[0-9]{0,9})?\s*")
_TIME: Final = 'a number of seconds, or a time such as "90s", "10m" or "6h"'
_MAX_FLOAT: Final = 10**300
"""Whole numbers beyond it do not fit into a float."""


def _same(text: str) -> object:
    return text


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """What values a setting takes.

    Attributes:
        wanted: a noun phrase for documents and errors, such as "a whole number from 1 to 5".
        parse: returns the checked value, or raises ValueError.
        read: converts a word of the command line into the form of the file, unchecked.
        choices: all permitted words, if they are few.
        absent: what None means, for a kind that also takes None.
        repeats: whether the file has a list and an option may be repeated, once for each item.
        is_time: whether the value is a time in seconds, which an option takes with its unit.
    """

    wanted: str
    parse: Callable[[object], T]
    read: Callable[[str], object] = _same
    choices: tuple[str, ...] = ()
    repeats: bool = False
    absent: str = ""
    is_time: bool = False


def whole(lowest: int, highest: int, unit: str = "") -> Kind[int]:
    """Return the kind of whole numbers in a range; ``unit`` is in the plural, such as "bytes"."""
    wanted = f"a whole number{_of(unit)} from {lowest} to {highest}"

    def parse(value: object) -> int:
        if type(value) is not int:
            raise ValueError(f"must be {wanted}, not {shown(value)}")
        if not lowest <= value <= highest:
            raise ValueError(f"must lie between {lowest} and {highest}{_unit(unit)}, not {value}")
        return value

    return Kind(wanted, parse, _whole_of)


def number(lowest: float, highest: float, unit: str = "") -> Kind[float]:
    """Return the kind of numbers in a range, both ends included."""
    low, high = plain_number(lowest), plain_number(highest)
    wanted = f"a number{_of(unit)} from {low} to {high}"

    def parse(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"must be {wanted}, not {shown(value)}")  # noqa: TRY004 - the user's
        if not lowest <= value <= highest:  # also refuses NaN
            raise ValueError(f"must lie between {low} and {high}{_unit(unit)}, not {shown(value)}")
        return float(value)

    return Kind(wanted, parse, _number_of)


def seconds(lowest: float, highest: float) -> Kind[float]:
    """Return the kind of times in a range: seconds, or a text such as "90s" or "10m"."""
    low, high = plain_number(lowest), plain_number(highest)

    def parse(value: object) -> float:
        found = _seconds(value)
        if not lowest <= found <= highest:  # also refuses NaN
            raise ValueError(f"must lie between {low} and {high} seconds, not {shown(value)}")
        return found

    # A word stays a text, so that a number without a unit is refused as in a file.
    return Kind(f"a time from {low} to {high} seconds", parse, is_time=True)


def or_zero(kind: Kind[float], meaning: str) -> Kind[float]:
    """Return a kind that also takes 0, which means ``meaning``."""
    wanted = f"0 for {meaning}, or {kind.wanted}"

    def parse(value: object) -> float:
        if value == 0 and not isinstance(value, bool):
            return 0.0
        try:
            return kind.parse(value)
        except ValueError as error:
            raise ValueError(f"must be {wanted}, not {shown(value)}") from error

    return Kind(wanted, parse, kind.read, is_time=kind.is_time)


def one_of(*known: str) -> Kind[str]:
    """Return the kind of one word from a list."""
    listed = ", ".join(known)

    def parse(value: object) -> str:
        if not isinstance(value, str) or value not in known:
            raise ValueError(f"must be one of {listed}, not {shown(value)}")
        return value

    return Kind(f"one of {listed}", parse, choices=known)


def some_of(*known: str) -> Kind[tuple[str, ...]]:
    """Return the kind of lists of different words; the result has the order of ``known``."""
    one = one_of(*known)
    wanted = f"a list of some of {', '.join(known)}"

    def parse(value: object) -> tuple[str, ...]:
        if not isinstance(value, list | tuple):
            raise ValueError(f"must be {wanted}, not {shown(value)}")  # noqa: TRY004 - the user's
        given = [one.parse(item) for item in value]
        return tuple(name for name in known if name in given)

    return Kind(wanted, parse, choices=known, repeats=True)


def many(kind: Kind[T]) -> Kind[tuple[T, ...]]:
    """Return the kind of lists of at least one value, each value once.

    On the command line, commas separate the values.
    """
    wanted = f"a list, each value {kind.wanted}"

    def parse(value: object) -> tuple[T, ...]:
        if not isinstance(value, list | tuple) or not value:
            raise ValueError(f"must be {wanted}, not {shown(value)}")
        parsed = tuple(kind.parse(item) for item in value)
        if len(set(parsed)) < len(parsed):
            raise ValueError("names a value twice; write each of them once")
        return parsed

    return Kind(wanted, parse, lambda text: [kind.read(x.strip()) for x in text.split(",")])


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {shown(value)}")  # noqa: TRY004 - the user's
    return value


FLAG: Final = Kind("true or false", _flag)
"""True or false; no other value is converted."""


def _whole_of(text: str) -> object:
    return int(text) if _WHOLE.fullmatch(text) and text.strip(" _+-") else text


def _number_of(text: str) -> object:
    if _WHOLE.fullmatch(text):
        return _whole_of(text)
    try:
        return float(text)
    except ValueError:
        return text


def _of(unit: str) -> str:
    return f" of {unit}" if unit else ""


def _unit(unit: str) -> str:
    return f" {unit}" if unit else ""


def _seconds(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(min(value, _MAX_FLOAT)) if value == value else value
    if isinstance(value, str):
        found = parse_duration(value)
        if found is not None:
            return found
        if value.strip().startswith("-"):
            raise ValueError(
                f'must not be negative; write a time such as "90s", not {shown(value)}'
            )
        if _BARE_NUMBER.fullmatch(value):
            raise ValueError(
                f'must say its unit: write "{value.strip()}s" for seconds, or "m", "h" or "d" '
                "after the number"
            )
    raise ValueError(f"must be {_TIME}, not {shown(value)}")
