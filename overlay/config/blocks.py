"""Find the settings of blocks and of plug-ins, and import them only when they are needed.

A block declares its settings in its own ``settings.py``. A plug-in names its settings in the class
attribute ``settings_type``, a dataclass derived from :class:`overlay.settings.Settings`; without
it, it has no settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final

from overlay.errors import ConfigurationError
from overlay.plugins import load_plugin
from overlay.settings import Settings, declared

__all__ = [
    "BLOCKS",
    "PLUGIN_GROUPS",
    "block_settings_type",
    "followed",
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


def block_settings_type(section: str) -> type[Any]:
    """Return the settings dataclass of a block."""
    module, _, attribute = BLOCKS[section].partition(":")
    found: type[Any] = getattr(import_module(module), attribute)
    return found


def plugin_settings_type(group: str, name: str) -> type[Any] | None:
    """Return the settings dataclass of a plug-in, None if it has no settings.

    Raises:
        ConfigurationError: no plug-in of that name is installed, or it declares its settings in
            another way.
    """
    found: type[Any] | None = getattr(load_plugin(group, name), "settings_type", None)
    if found is not None and not _is_declared(found):
        raise ConfigurationError(
            f"the plug-in {name!r} of {group} does not declare its settings with "
            "overlay.settings; choose another, and tell its author."
        )
    return found


def _is_declared(settings_type: type[Any]) -> bool:
    try:
        return issubclass(settings_type, Settings) and declared(settings_type) is not None
    except TypeError:  # no class, no dataclass, or a field of another kind
        return False


def followed(settings_type: type[Any], sections: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that follow other sections, with the values of those sections."""
    return {
        name: getattr(sections[known.section], name)
        for name, known in declared(settings_type).items()
        if known.section
    }
