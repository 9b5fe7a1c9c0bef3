"""Declare acceptance experiments: settings in a full and a quick form, and a measurement.

The command line can change each setting, and the expected values are computed for the settings in
use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from overlay.errors import ConfigurationError
from overlay.settings import Settings, declared, refuse_unknown
from overlay.settings.shown import sentence

if TYPE_CHECKING:
    from sims.acceptance.experiment_result import CheckedValue

__all__ = ["Experiment", "Measurement", "Progress", "told", "with_values"]

S = TypeVar("S", bound=Settings)

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
    known = declared(type(settings))
    refuse_unknown(f"{name} setting", values, known)
    read = {key: known[key].kind.read(text.strip()) for key, text in values.items()}
    values_in_use = {key: getattr(settings, key) for key in known}
    settings_of: Callable[..., S] = type(settings)
    try:
        return settings_of(**values_in_use | read)
    except ValueError as error:
        raise ConfigurationError(f"{name}: {sentence(error)}") from error
