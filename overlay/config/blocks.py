"""Find the settings of blocks and of plug-ins, and import them only when they are needed.

A block declares a frozen dataclass of numbers and names in its own ``settings.py``. A plug-in
names its dataclass in the class attribute ``settings_type``; without it, it has no settings.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final

from overlay.plugins import load_plugin

__all__ = [
    "BLOCKS",
    "INHERITED",
    "PLUGIN_GROUPS",
    "block_settings_type",
    "field_meanings",
    "own_fields",
    "plugin_settings_type",
]

BLOCKS: Final[Mapping[str, str]] = {
    "apm": "overlay.apm.settings:ApmSettings",
    "dht": "overlay.dht.settings:DhtSettings",
    "link": "overlay.link.settings:LinkSettings",
}
"""Sections of the file that belong to a block, each with the location of its dataclass."""

PLUGIN_GROUPS: Final[Mapping[str, tuple[str, str]]] = {
    "selection": ("overlay.selection", "strategy"),
    "tfc": ("overlay.tfc", "strategy"),
    "forwarding": ("overlay.forwarding", "rules"),
}
"""Sections that choose a plug-in: its entry-point group, and the setting with its name."""

INHERITED: Final[Mapping[str, str]] = {
    "allow_private_endpoints": "network",
    "bandwidth_kbit": "network",
    "network_id": "network",
    "esp_suite": "ipsec",
    "link_suite": "ipsec",
}
"""Settings that several blocks need, each with the section that sets it.

A field of a block with this name gets the value of that section and cannot be set separately.
"""

_ENTRIES: Final = (
    re.compile(r"(?ms)^ {4}(?P<names>\w[\w, ]*): (?P<meaning>.*?)(?=\n {0,4}\S|\n\n|\Z)"),
    re.compile(r"(?ms)^``(?P<names>\w+)``: (?P<meaning>.*?)(?=\n``\w+``:|\n\n|\Z)"),
)
"""An indented entry of Google's ``Attributes:``, or a line that starts with a marked name."""


def block_settings_type(section: str) -> type[Any]:
    """Return the settings dataclass of a block."""
    module, _, attribute = BLOCKS[section].partition(":")
    found: type[Any] = getattr(import_module(module), attribute)
    return found


def plugin_settings_type(group: str, name: str) -> type[Any] | None:
    """Return the settings dataclass of a plug-in, None if it has no settings.

    Raises:
        ConfigurationError: no plug-in of that name is installed.
    """
    found: type[Any] | None = getattr(load_plugin(group, name), "settings_type", None)
    return found


def own_fields(settings_type: type[Any]) -> list[dataclasses.Field[Any]]:
    """Return the fields that the file may set: all except those that another section sets."""
    return [field for field in dataclasses.fields(settings_type) if field.name not in INHERITED]


def field_meanings(settings_type: type[Any]) -> dict[str, str]:
    """Return the descriptions of fields from the docstring of the class, by name.

    The docstring lists them as indented entries of ``Attributes:`` (Google's style), or as lines
    that start with the name in double backticks and a colon.
    """
    docstring = inspect.cleandoc(settings_type.__doc__ or "")
    meanings: dict[str, str] = {}
    for pattern in _ENTRIES:
        for entry in pattern.finditer(docstring):
            text = " ".join(entry["meaning"].split())
            meanings |= dict.fromkeys(entry["names"].split(", "), text)
    return meanings
