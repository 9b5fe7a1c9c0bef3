"""Declare acceptance experiments: settings in a full and a quick form, and a measurement.

The settings are a frozen dataclass of numbers, texts and tuples of numbers. The command line
can set each of them, and the expected values are computed for the settings in use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Generic, TypeVar

from overlay.errors import ConfigurationError
from sims.accept.ranges import check_ranges

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from sims.accept.experiment_result import CheckedValue

__all__ = ["Experiment", "Measurement", "Progress", "told", "with_values"]

S = TypeVar("S", bound="DataclassInstance")

Progress = Callable[[str], None]
"""Called with a few words about what is measured now."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """The measured points, and a remark for the reader."""

    points: list[CheckedValue]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Experiment(Generic[S]):
    """One acceptance experiment.

    ``measure`` takes the settings, the number of seeds and a callback for progress. ``by_row``
    is set if the points have different units and cannot share an axis of a figure.
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
        """Return the settings of the quick or the full form."""
        return self.quick if quick else self.full


def told(name: str, points: list[CheckedValue], progress: Progress) -> list[CheckedValue]:
    """Report points to ``progress`` before the next ones are measured; return the points."""
    for point in points:
        progress(f"{name}: {point}")
    return points


def with_values(name: str, settings: S, values: dict[str, str]) -> S:
    """Return the settings with some values replaced by a user's texts.

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
    check_ranges(
        name, type(settings), parsed
    )  # first, because the checks of the dataclass compute with these values
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
