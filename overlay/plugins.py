"""Find implementations of the blocks by their entry points, and load them when they are needed.

Implementations of this package and of others use the same entry-point groups. These are
``overlay.selection``, ``overlay.tfc``, ``overlay.forwarding`` and ``overlay.ipsec``.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from overlay.errors import ConfigurationError

__all__ = [
    "NOUNS",
    "load_plugin",
    "plugin_names",
    "registered_plugins",
    "unknown_name",
]

NOUNS: Final = {
    "overlay.selection": "path selection strategy",
    "overlay.tfc": "traffic flow confidentiality strategy",
    "overlay.forwarding": "set of forwarding rules",
    "overlay.ipsec": "IPsec backend",
}
"""Nouns for the implementations of a group, used in messages."""

_SYNONYMS: Final = {"kernel": "xfrm", "user": "userspace", "off": "none", "random": "uniform"}
"""Names that users try, with the registered names that they mean."""


def plugin_names(group: str) -> list[str]:
    """Return the registered names of a group, sorted."""
    return sorted({entry.name for entry in registered_plugins(group)})


def load_plugin(group: str, name: str) -> Any:  # noqa: ANN401 - each group's caller knows its Protocol
    """Import the implementation ``name`` of ``group``.

    Raises:
        ConfigurationError: the name is not registered; the message lists the registered names.
    """
    found = [entry for entry in registered_plugins(group) if entry.name == name]
    if not found:
        raise unknown_name(NOUNS.get(group, "plug-in"), name, plugin_names(group))
    return found[0].load()


def unknown_name(noun: str, name: str, known: Sequence[str]) -> ConfigurationError:
    """Return the error for a name that is not registered; it lists the known names."""
    close = difflib.get_close_matches(_SYNONYMS.get(name, name), known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return ConfigurationError(
        f"there is no {noun} named {name[:64]!r}: {hint}known names are "
        f"{', '.join(known) or '(none)'}."
    )


@cache
def registered_plugins(group: str) -> tuple[EntryPoint, ...]:
    """Return the entry points of a group.

    They are read only once, because this opens a file of each installed distribution.
    """
    return tuple(entry_points(group=group))
