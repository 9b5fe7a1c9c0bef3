"""A small immutable mapping, for settings whose names another module declares."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

__all__ = ["Parameters", "Scalar"]

Scalar = bool | int | float | str
"""Types of a parameter: the scalars that TOML and JSON have in common."""


class Parameters(Mapping[str, Scalar]):
    """Names and values in alphabetical order. Unlike a dict proxy it can be hashed and pickled.

    Raises:
        ValueError: a value is not a finite scalar; the message completes "parameter ...".
    """

    __slots__ = ("_items",)

    def __init__(self, values: Mapping[str, object] | None = None) -> None:
        given = values or {}
        self._items = tuple((name, _scalar(name, given[name])) for name in sorted(given))

    def __getitem__(self, name: str) -> Scalar:
        for known, value in self._items:
            if known == name:
                return value
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return (name for name, _value in self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(self._items)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Parameters):
            return self._items == other._items
        return NotImplemented

    def __repr__(self) -> str:
        return f"Parameters({dict(self._items)!r})"

    def __reduce__(self) -> tuple[type[Parameters], tuple[dict[str, Scalar]]]:
        return Parameters, (dict(self._items),)

    def number(self, name: str, default: float) -> float:
        """Return the value of a parameter that must be a number.

        Raises:
            ValueError: it is text or a truth value.
        """
        value = self.get(name, default)
        if isinstance(value, bool | str):
            raise ValueError(f"{name} must be a number, not {value!r}")  # noqa: TRY004 - the user's
        return float(value)


def _scalar(name: object, value: object) -> Scalar:
    if not isinstance(name, str):
        raise ValueError(f"{name!r} must have a name in text")  # noqa: TRY004 - the user's
    if not isinstance(value, bool | int | float | str):
        raise ValueError(f"{name} must be a number, a text, true or false, not {value!r}")  # noqa: TRY004 - likewise
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, not {value}")
    return value
