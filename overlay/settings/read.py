"""Read a table of a file into declared settings; report mistakes with their location."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from overlay.errors import ConfigurationError
from overlay.settings.declaration import declared
from overlay.settings.shown import sentence

__all__ = ["own_names", "read_settings", "refuse_unknown"]

S = TypeVar("S")


def read_settings(where: str, settings_type: type[S], table: Mapping[str, Any]) -> S:
    """Return the settings of the table ``[where]``; what it does not mention has its default.

    Raises:
        ConfigurationError: a name is unknown, or a value is not permitted.
    """
    refuse_unknown(f"[{where}] setting", table, declared(settings_type))
    try:
        return settings_type(**table)
    except ValueError as error:
        raise ConfigurationError(f"[{where}] {sentence(error)}") from error


def own_names(settings_type: type[Any]) -> list[str]:
    """Return the settings that belong to this table: all but those that follow another section."""
    return [name for name, known in declared(settings_type).items() if not known.section]


def refuse_unknown(
    kind: str, given: Iterable[object], known: Iterable[str], show: Callable[[str], str] = str
) -> None:
    """Check names; the error of an unknown name has a similar name, or all known names.

    Args:
        kind: what is named, such as "[network] setting".
        given: the names that the user wrote.
        known: the names that exist.
        show: how a name is written in the message.

    Raises:
        ConfigurationError: a name is unknown.
    """
    names = list(known)
    for name in given:
        if name in names:
            continue
        text = str(name)[:60]
        close = difflib.get_close_matches(text, names, n=1)
        listed = ", ".join(show(each) for each in names) or "none"
        hint = f"did you mean {show(close[0])}?" if close else f"known: {listed}."
        raise ConfigurationError(f"there is no {kind} {show(text)}; {hint}")
