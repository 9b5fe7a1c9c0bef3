"""The declaration of a setting, and the base class that checks declared settings."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, TypeVar, cast

from overlay.settings.kinds import Kind

__all__ = ["Setting", "Settings", "TomlValue", "declared", "follows", "setting"]

T = TypeVar("T")

TomlValue = str | int | float | bool | list[str] | list[int] | list[float]
"""The types that a setting can have in a file."""

_KEY: Final = "setting"


@dataclass(frozen=True, slots=True)
class Setting:
    """One declared setting.

    Attributes:
        name: its name in the file and in the dataclass.
        default: its default in the form of the file; None if the file cannot contain it.
        value: the same as a checked value.
        kind: what values it takes.
        meaning: what it does, in full sentences.
        section: the section that sets it, if a block only follows that section; otherwise "".
    """

    name: str
    default: TomlValue | None
    value: object
    kind: Kind[Any]
    meaning: str
    section: str = ""


def setting(default: object, kind: Kind[T], meaning: str) -> T:
    """Declare a setting: its default in the form of the file, its kind, and its meaning.

    Raises:
        ValueError: the default is not permitted.
    """
    return _field(default, kind, meaning, "")


def follows(section: str, default: object, kind: Kind[T]) -> T:
    """Declare a setting that another section of the configuration file has under the same name.

    Several blocks may need such a setting; the user writes it once. ``default`` is for programs
    that use the block without a configuration.
    """
    return _field(default, kind, f"Follows [{section}].", section)


def _field(default: object, kind: Kind[T], meaning: str, section: str) -> T:
    value = kind.parse(default)
    name = ""  # the dataclass knows it later
    known = Setting(name, cast("TomlValue | None", default), value, kind, meaning, section)
    return field(default=value, metadata={_KEY: known})


class Settings:
    """Base of the frozen dataclasses whose fields are declared with :func:`setting`.

    All values are checked when an instance is made, so a program cannot make one that a file
    could not. A value in the form of the file, such as "90s", is converted.

    Raises:
        ValueError: a value is not permitted, or two contradict each other. The message begins
            with the name of the setting and has no full stop.
    """

    __slots__ = ()

    def __post_init__(self) -> None:
        for name, known in declared(type(self)).items():
            value = getattr(self, name)
            if value is known.value:
                continue
            try:
                parsed = known.kind.parse(value)
            except ValueError as error:
                raise ValueError(f"{name} {error}") from error
            object.__setattr__(self, name, parsed)  # the dataclass is frozen
        self.check()

    def check(self) -> None:
        """Check settings that depend on each other; a subclass raises ValueError."""


def declared(settings_type: type[Any]) -> Mapping[str, Setting]:
    """Return the settings of a dataclass by name, in the order of their declaration.

    Raises:
        TypeError: a field is not declared with :func:`setting`.
    """
    # mypy does not accept a class as an argument of a cached function
    return _declared(cast("Hashable", settings_type))


@functools.cache
def _declared(settings_type: Any) -> Mapping[str, Setting]:  # noqa: ANN401 - a class
    found: dict[str, Setting] = {}
    for each in fields(settings_type):
        if _KEY not in each.metadata:
            raise TypeError(f"{settings_type.__name__}.{each.name} is not declared with setting()")
        known: Setting = each.metadata[_KEY]
        found[each.name] = Setting(
            each.name, known.default, known.value, known.kind, known.meaning, known.section
        )
    return found
