"""The five blocks' implementations, found by entry point and loaded when first named.

Ours register through the same entry-point groups as anybody else's; there is no private
shortcut. Group names: ``overlay.selection``, ``overlay.tfc``, ``overlay.forwarding``,
``overlay.ipsec``.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, TypeVar

from overlay.durations import parse_duration
from overlay.errors import ConfigurationError

__all__ = [
    "NOUNS",
    "load_plugin",
    "plugin_names",
    "registered_plugins",
    "settings_of",
    "unknown_name",
]

S = TypeVar("S")

NOUNS: Final = {
    "overlay.selection": "path selection strategy",
    "overlay.tfc": "traffic flow confidentiality strategy",
    "overlay.forwarding": "set of forwarding rules",
    "overlay.ipsec": "IPsec backend",
}
"""What the implementations of a group are, for messages."""

_SYNONYMS: Final = {"kernel": "xfrm", "user": "userspace", "off": "none", "random": "uniform"}
"""Names that people try, and the registered one that they mean."""

_UNITS: Final = (
    ("_per_s", "a number per second"),
    ("_kbit", "a number of kbit/s"),
    ("_bytes", "a number of bytes"),
    ("_pps", "a number of packets per second"),
    ("_ms", "a number of milliseconds"),
    ("_s", 'a number of seconds, or a time such as "90s" or "10m"'),
)
"""What a setting takes, by the end of its name; the longest ending first."""


def plugin_names(group: str) -> list[str]:
    """Return the registered names of a group, sorted."""
    return sorted({entry.name for entry in registered_plugins(group)})


def load_plugin(group: str, name: str) -> Any:  # noqa: ANN401 - each group's caller knows its Protocol
    """Import the implementation ``name`` of ``group``.

    Raises:
        ConfigurationError: nobody registered that name; the message lists those known.
    """
    found = [entry for entry in registered_plugins(group) if entry.name == name]
    if not found:
        raise unknown_name(NOUNS.get(group, "plug-in"), name, plugin_names(group))
    return found[0].load()


def unknown_name(noun: str, name: str, known: Sequence[str]) -> ConfigurationError:
    """Return the error for a name that nothing is registered under; it lists those known."""
    close = difflib.get_close_matches(_SYNONYMS.get(name, name), known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return ConfigurationError(
        f"there is no {noun} named {name[:64]!r}: {hint}known names are "
        f"{', '.join(known) or '(none)'}."
    )


@cache
def registered_plugins(group: str) -> tuple[EntryPoint, ...]:
    """Return the entry points of a group, read once: a file for each installed distribution."""
    return tuple(entry_points(group=group))


def settings_of(where: str, settings_type: type[S], given: Mapping[str, object]) -> S:
    """Build a plug-in's frozen settings dataclass from the user's table.

    A setting of seconds (its name ends in ``_s``) may also be a text such as "90s".

    Raises:
        ConfigurationError: an unknown setting, a value of another type, or one out of range
            (the dataclass's ``__post_init__`` raises ValueError with a full sentence).
    """
    fields = {f.name: f for f in dataclasses.fields(settings_type)}  # type: ignore[arg-type]  # a dataclass by contract
    values = {}
    for name, value in given.items():
        if name not in fields:
            raise ConfigurationError(f"[{where}] has no setting {name!r}; {_hint(name, fields)}")
        default = fields[name].default
        values[name] = _in_seconds(value, default) if _takes_time(name) else value
        if not _fits(values[name], default):
            raise ConfigurationError(
                f"[{where}] {name} must be {_wanted(name, default)}, not {_shown(value)}."
            )
    try:
        return settings_type(**values)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"[{where}] {error}") from error


def _hint(name: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"did you mean {close[0]}?"
    return f"it knows {', '.join(sorted(known)) or 'none'}."


def _takes_time(name: str) -> bool:
    return name.endswith("_s") and not name.endswith("_per_s")


def _in_seconds(value: object, default: object) -> object:
    seconds = parse_duration(value) if isinstance(value, str) else None
    if seconds is None:
        return value
    whole = isinstance(default, int) and seconds.is_integer()
    return int(seconds) if whole else seconds


def _fits(value: object, default: object) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, float):
        return isinstance(value, int | float)
    return isinstance(value, type(default)) or default is dataclasses.MISSING


def _wanted(name: str, default: object) -> str:
    """Return what a setting takes, in words: its kind and, if its name tells it, its unit."""
    if isinstance(default, bool):
        return "true or false"
    if isinstance(default, str):
        return f'a text in quotes, such as "{default}"'
    if not isinstance(default, int | float):
        return f"of the kind of {default!r}"
    number = next((words for ending, words in _UNITS if name.endswith(ending)), "a number")
    return number.replace("a number", "a whole number", 1) if isinstance(default, int) else number


def _shown(value: object) -> str:
    shown = f'"{value}"' if isinstance(value, str) else repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
