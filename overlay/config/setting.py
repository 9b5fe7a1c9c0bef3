"""How one setting is declared: its default, its parser and its meaning, once and in one place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field, field
from typing import Final, TypeVar, cast

__all__ = ["Parser", "TomlValue", "meaning_of", "parser_of", "setting", "toml_default_of"]

T = TypeVar("T")

TomlValue = str | int | float | bool | list[str]
"""What a setting can be in the file."""

Parser = Callable[[object], T]
"""Turn a TOML value into a checked one; raise ValueError with what is wrong and what to write."""

_DEFAULT: Final = "toml_default"
_PARSER: Final = "parser"
_MEANING: Final = "meaning"


def setting(default: TomlValue, parser: Parser[T], meaning: str) -> T:
    """Declare a field of a section's dataclass.

    ``default`` is written as in the file and goes through ``parser`` like the user's value,
    when a section is built without this setting.
    """
    metadata = {_DEFAULT: default, _PARSER: parser, _MEANING: meaning}
    declared: T = field(default_factory=lambda: parser(default), metadata=metadata)
    return declared


def toml_default_of(declared: Field[object]) -> TomlValue:
    """Return a setting's default as the file spells it."""
    return cast("TomlValue", declared.metadata[_DEFAULT])


def parser_of(declared: Field[object]) -> Parser[object]:
    """Return a setting's parser."""
    return cast("Parser[object]", declared.metadata[_PARSER])


def meaning_of(declared: Field[object]) -> str:
    """Return what a setting means, for the commented file."""
    return cast("str", declared.metadata[_MEANING])
