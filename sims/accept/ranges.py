"""In which range each setting of an experiment makes sense, declared beside its default."""

from __future__ import annotations

import math
from dataclasses import field, fields
from typing import TYPE_CHECKING, Any, Final

from overlay.errors import ConfigurationError
from sims.churn import SessionModel, parse_model

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["check_ranges", "leaving_model", "ranged"]

_RANGE: Final = "range"


def ranged(default: object, low: float, high: float) -> Any:  # noqa: ANN401 - as dataclasses.field
    """Declare a number, or a tuple of numbers, each from ``low`` to ``high``."""
    return field(default=default, metadata={_RANGE: (low, high)})


def check_ranges(name: str, settings: DataclassInstance) -> None:
    """Hold the settings of the experiment ``name`` against what they declare.

    Raises:
        ConfigurationError: one sentence that names the setting, its range and what was given.
    """
    for declared in fields(settings):
        where = f"{name}.{declared.name}"
        value = getattr(settings, declared.name)
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


def leaving_model(text: str) -> SessionModel:
    """Return a session model under which nodes leave.

    Raises:
        ConfigurationError: there is no such model.
        ValueError: nobody ever leaves under it.
    """
    model = parse_model(text)
    if model.permanent_share == 1:
        raise ValueError(f"nobody ever leaves under {text!r}; take a model with sessions")
    return model


def _plain(bound: float) -> str:
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"
