"""The five blocks' implementations, found by entry point and loaded when first named.

Ours register through the same entry-point groups as anybody else's; there is no private
shortcut. Group names: ``overlay.selection``, ``overlay.tfc``, ``overlay.forwarding``,
``overlay.ipsec``.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from overlay.errors import ConfigurationError

__all__ = ["load_plugin", "plugin_names", "settings_of"]

S = TypeVar("S")


def plugin_names(group: str) -> list[str]:
    """Return the registered names of a group, sorted."""
    return sorted({entry.name for entry in _registered(group)})


def load_plugin(group: str, name: str) -> Any:  # noqa: ANN401 - each group's caller knows its Protocol
    """Import the implementation ``name`` of ``group``.

    Raises:
        ConfigurationError: nobody registered that name; the message lists those known.
    """
    found = [entry for entry in _registered(group) if entry.name == name]
    if not found:
        known = plugin_names(group)
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ConfigurationError(
            f"there is no {group.removeprefix('overlay.')} named {name!r}: {hint}"
            f"known names are {', '.join(known) or '(none)'}."
        )
    return found[0].load()


@cache
def _registered(group: str) -> tuple[EntryPoint, ...]:
    """Read once what is installed: it is a file for each distribution there is."""
    return tuple(entry_points(group=group))


def settings_of(where: str, settings_type: type[S], given: Mapping[str, object]) -> S:
    """Build a plug-in's frozen settings dataclass from the user's table.

    Raises:
        ConfigurationError: an unknown setting, a value of another type, or one out of range
            (the dataclass's ``__post_init__`` raises ValueError with a full sentence).
    """
    fields = {f.name: f for f in dataclasses.fields(settings_type)}  # type: ignore[arg-type]  # a dataclass by contract
    for name, value in given.items():
        if name not in fields:
            known = ", ".join(sorted(fields)) or "none"
            raise ConfigurationError(f"[{where}] has no setting {name!r}; it knows {known}.")
        default = fields[name].default
        if not _fits(value, default):
            raise ConfigurationError(
                f"[{where}] {name} must be of the kind of its default, {default!r}, not {value!r}."
            )
    try:
        return settings_type(**given)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"[{where}] {error}") from error


def _fits(value: object, default: object) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, float):
        return isinstance(value, int | float)
    return isinstance(value, type(default)) or default is dataclasses.MISSING
