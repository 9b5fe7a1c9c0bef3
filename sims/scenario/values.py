"""The kinds of settings that only scenarios and experiments have: names, texts, seeds and tables.

A parser raises ValueError with a message that completes "[section] setting ..." and says what to
write instead. It accepts its own result.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from overlay.settings import Kind, read_settings, whole
from overlay.settings.shown import shown
from sims.scenario.parameters import Parameters

__all__ = ["LABEL", "LINE", "PARAMETERS", "SEEDS", "TEXT", "of_table", "optional"]

MAX_SEEDS: Final = 1000
_SEED: Final = whole(0, 2**63 - 1)
_LABEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LABEL_WANTED: Final = (
    "1 to 64 letters, digits, dots, dashes or underscores that start with a letter or a digit"
)

T = TypeVar("T")


def _label(value: object) -> str:
    if not isinstance(value, str) or _LABEL.fullmatch(value) is None:
        raise ValueError(f"must be {_LABEL_WANTED}, not {shown(value)}")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be a text in quotes, not {shown(value)}")  # noqa: TRY004 - the user's
    if len(value) > 2000 or any(ord(c) < 32 and c != "\n" for c in value):
        raise ValueError("must be at most 2000 characters without control characters")
    if any(0xD800 <= ord(c) <= 0xDFFF or ord(c) == 127 for c in value):
        raise ValueError("must be Unicode text without control characters")
    return value


def _line(value: object) -> str:
    parsed = _text(value)
    if not parsed.strip() or "\n" in parsed or len(parsed) > 500:
        raise ValueError(f"must be 1 to 500 characters on one line, not {shown(value)}")
    return parsed


def _parameters(value: object) -> Parameters:
    if not isinstance(value, Mapping):
        raise ValueError(f"must be a table of names and values, not {shown(value)}")  # noqa: TRY004 - likewise
    return value if isinstance(value, Parameters) else Parameters(value)


def _seeds(value: object) -> tuple[int, ...]:
    if type(value) is int:
        if not 1 <= value <= MAX_SEEDS:
            raise ValueError(f"must be 1 to {MAX_SEEDS} seeds, not {value}")
        return tuple(range(1, value + 1))
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= MAX_SEEDS:
        raise ValueError(f"must be a number of seeds or a list of them, not {shown(value)}")
    listed = tuple(_SEED.parse(seed) for seed in value)
    if len(set(listed)) != len(listed):
        raise ValueError(f"names a seed twice, which would count one run double: {shown(value)}")
    return listed


def _read_seeds(text: str) -> object:
    numbers = [_SEED.read(part) for part in text.split(",")]
    return numbers[0] if len(numbers) == 1 else numbers


def optional(kind: Kind[T], otherwise: str) -> Kind[T | None]:
    """Return a kind that also takes None (not given), which means ``otherwise``."""
    return Kind(
        kind.wanted,
        lambda value: None if value is None else kind.parse(value),
        kind.read,
        absent=otherwise,
    )


def of_table(section: str, settings_type: type[T]) -> Kind[T]:
    """Return the kind of tables with the settings of a dataclass."""

    def parse(value: object) -> T:
        if isinstance(value, settings_type):
            return value
        if not isinstance(value, Mapping):
            raise ValueError(  # noqa: TRY004 - the user's mistake
                f"must be a table; write [{section}] on a line and its settings below"
            )
        table: Mapping[str, Any] = value
        return read_settings(section, settings_type, table)

    return Kind("a table", parse)


LABEL: Final = Kind(_LABEL_WANTED, _label)
"""A name that is safe in a file name."""

TEXT: Final = Kind("a text of at most 2000 characters", _text)
LINE: Final = Kind("1 to 500 characters on one line", _line)
PARAMETERS: Final = Kind("a table of names and values", _parameters)
"""The module that uses these values checks their names."""

SEEDS: Final = Kind(f"a number of seeds up to {MAX_SEEDS}, or a list of them", _seeds, _read_seeds)
