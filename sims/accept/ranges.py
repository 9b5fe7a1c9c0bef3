"""Ranges of the settings of experiments, declared beside their defaults."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import field, fields
from typing import TYPE_CHECKING, Any, Final

from overlay.errors import ConfigurationError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["check_ranges", "ranged"]

_RANGE: Final = "range"


def ranged(default: object, low: float, high: float) -> Any:  # noqa: ANN401 - as dataclasses.field
    """Declare a field with a number, or a tuple of numbers, from ``low`` to ``high``."""
    return field(default=default, metadata={_RANGE: (low, high)})


def check_ranges(name: str, settings: type[DataclassInstance], given: Mapping[str, object]) -> None:
    """Check that values for settings of the experiment ``name`` are in the declared ranges.

    Raises:
        ConfigurationError: a value is out of range; the message names setting, range and value.
    """
    for declared in fields(settings):
        if declared.name not in given:
            continue
        where, value = f"{name}.{declared.name}", given[declared.name]
        values = value if isinstance(value, tuple) else (value,)
        if len(set(values)) < len(values):
            raise ConfigurationError(f"{where} names a value twice; write each of them once.")
        if _RANGE not in declared.metadata:
            continue
        low, high = declared.metadata[_RANGE]
        for each in values:
            if not (math.isfinite(each) and low <= each <= high):
                raise ConfigurationError(
                    f"{where} must lie between {_plain(low)} and {_plain(high)}, not {each!r}."
                )


def _plain(bound: float) -> str:
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"
