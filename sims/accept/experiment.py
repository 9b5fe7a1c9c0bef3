"""How an acceptance experiment is declared: settings, a quick form of them, and a measurement.

The settings are a frozen dataclass of numbers, texts and tuples of numbers; each can be set
from outside, and the expectation is computed for whatever they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Generic, TypeVar

from overlay.errors import ConfigurationError
from sims.accept.ranges import check_ranges

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from sims.accept.verdict import Point

__all__ = ["Experiment", "Measurement", "Progress", "told", "with_values"]

S = TypeVar("S", bound="DataclassInstance")

Progress = Callable[[str], None]
"""Told in a few words what is being measured now."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Points and a remark for the reader."""

    points: list[Point]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Experiment(Generic[S]):
    """One row of the acceptance set.

    ``measure`` takes the settings, how many seeds to use and what to tell of progress.
    ``by_row`` is for points of different units, which share no axis of a figure.
    """

    name: str
    title: str
    tolerance: str
    x_label: str
    y_label: str
    full: S
    quick: S
    measure: Callable[[S, int, Progress], Measurement]
    by_row: bool = False

    def form(self, *, quick: bool) -> S:
        """Return the settings of one of its two forms."""
        return self.quick if quick else self.full


def told(name: str, points: list[Point], progress: Progress) -> list[Point]:
    """Tell of points that took long to measure before the next ones begin; return them."""
    for point in points:
        progress(f"{name}: {point}")
    return points


def with_values(name: str, settings: S, values: dict[str, str]) -> S:
    """Return settings with some of them replaced by what a user wrote.

    Raises:
        ConfigurationError: there is no such setting, the text does not fit its type, or the
            value is out of range.
    """
    known = {field.name: getattr(settings, field.name) for field in fields(settings)}
    parsed: dict[str, object] = {}
    for key, text in values.items():
        if key not in known:
            raise ConfigurationError(f"{name} has no setting {key!r}; it has {', '.join(known)}.")
        parsed[key] = _parsed(f"{name}.{key}", text, known[key])
    check_ranges(name, type(settings), parsed)  # first: what follows counts with them
    try:
        return replace(settings, **parsed)
    except ValueError as error:
        raise ConfigurationError(f"{name}: {str(error).rstrip('.')}.") from error


def _parsed(where: str, text: str, like: object) -> object:
    if isinstance(like, tuple):
        return tuple(_scalar(where, part.strip(), like[0]) for part in text.split(","))
    return _scalar(where, text.strip(), like)


def _scalar(where: str, text: str, like: object) -> object:
    if isinstance(like, str):
        return text
    try:
        return int(text) if isinstance(like, int) else float(text)
    except ValueError:
        kind = "whole number" if isinstance(like, int) else "number"
        raise ConfigurationError(
            f"{where} must be a {kind}, not {text!r}; several are separated by commas."
        ) from None
