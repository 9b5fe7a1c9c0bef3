"""Render the file that ``overlay init`` writes: every setting with a comment and its default."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from overlay.config.blocks import (
    BLOCKS,
    PLUGIN_GROUPS,
    block_settings_type,
    plugin_settings_type,
)
from overlay.config.load import SECTIONS
from overlay.plugins import plugin_names
from overlay.settings import TomlValue, declared, own_names
from overlay.settings.describe import comment, commented_entry

__all__ = ["Chosen", "about_section", "all_sections", "commented_configuration"]

_HEAD: Final = """\
# Configuration of an overlay node (TOML, https://toml.io). Lines that start with "#" show the
# defaults: remove the "#" to change one. docs/configuration.md has more.
"""

Chosen = Mapping[tuple[str, str], TomlValue]
"""Values in the form of the file, by section and name."""


def commented_configuration(chosen: Chosen) -> str:
    """Return a configuration file that sets ``chosen[section, setting]`` and shows all defaults.

    Raises:
        KeyError: ``chosen`` names a setting that does not exist.
    """
    remaining = dict(chosen)
    parts = [_HEAD]
    for section, settings_type in all_sections():
        parts.append(f"\n[{section}]\n{comment(about_section(settings_type))}")
        for name in own_names(settings_type):
            value = remaining.pop((section, name), None)
            known = declared(settings_type)[name]
            parts.append("\n" + commented_entry(known, value, _known_names(section, name)))
    if remaining:
        raise KeyError(next(iter(remaining)))
    return "\n".join(parts)


def all_sections() -> Iterator[tuple[str, type[Any]]]:
    """Yield every section with a setting, in the order of the file, those of plug-ins included."""
    for section, settings_type in SECTIONS.items():
        yield section, settings_type
        if section in PLUGIN_GROUPS:
            yield from _plugin_sections(section)
    for section in BLOCKS:
        yield section, block_settings_type(section)


def about_section(settings_type: type[Any]) -> str:
    """Return what a section is for: the first paragraph of the docstring, without the heading."""
    paragraph = (settings_type.__doc__ or "").strip().partition("\n\n")[0]
    heading, _, about = paragraph.partition("]: ")
    words = " ".join((about or heading).split())
    return words[:1].upper() + words[1:]


def _plugin_sections(section: str) -> Iterator[tuple[str, type[Any]]]:
    group, _setting = PLUGIN_GROUPS[section]
    for name in plugin_names(group):
        settings_type = plugin_settings_type(group, name)
        if settings_type is not None and own_names(settings_type):
            yield f"{section}.{name}", settings_type


def _known_names(section: str, name: str) -> str:
    """Return a sentence with all names of plug-ins, if the setting names a plug-in."""
    group, setting = PLUGIN_GROUPS.get(section, ("overlay.ipsec", "backend"))
    chooses = name == setting and section in {*PLUGIN_GROUPS, "ipsec"}
    return f"Known: {', '.join(plugin_names(group))}." if chooses else ""
