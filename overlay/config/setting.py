"""Declare a setting with its default, its parser and its description in one place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field, field
from typing import Final, TypeVar, cast

__all__ = ["Parser", "TomlValue", "meaning_of", "parser_of", "setting", "toml_default_of"]

T = TypeVar("T")

TomlValue = str | int | float | bool | list[str]
"""The types that a setting can have in the file."""

Parser = Callable[[object], T]
"""Turn a TOML value into a checked one; raise ValueError with what is wrong and what to write."""

_DEFAULT: Final = "toml_default"
_PARSER: Final = "parser"
_MEANING: Final = "meaning"


def setting(default: TomlValue, parser: Parser[T], meaning: str) -> T:
    """Declare a field of the dataclass of a section.

    ``default`` has the form of the file. If a section is built without this setting, ``parser``
    converts the default as it converts the user's value.
    """
    metadata = {_DEFAULT: default, _PARSER: parser, _MEANING: meaning}
    declared: T = field(default_factory=lambda: parser(default), metadata=metadata)
    return declared


def toml_default_of(declared: Field[object]) -> TomlValue:
    """Return the default of a setting in the form of the file."""
    return cast("TomlValue", declared.metadata[_DEFAULT])


def parser_of(declared: Field[object]) -> Parser[object]:
    """Return the parser of a setting."""
    return cast("Parser[object]", declared.metadata[_PARSER])


def meaning_of(declared: Field[object]) -> str:
    """Return the description of a setting for the commented file."""
    return cast("str", declared.metadata[_MEANING])
