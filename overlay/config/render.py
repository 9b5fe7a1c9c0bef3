"""Render the file that ``overlay init`` writes: every setting with a comment and its default."""

from __future__ import annotations

import dataclasses
import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

from overlay.config.blocks import (
    BLOCKS,
    PLUGIN_GROUPS,
    block_settings_type,
    field_meanings,
    own_fields,
    plugin_settings_type,
)
from overlay.config.load import SECTIONS
from overlay.config.setting import TomlValue, meaning_of, toml_default_of
from overlay.plugins import plugin_names

__all__ = ["commented_configuration", "toml_value"]

_HEAD: Final = """\
# Configuration of an overlay node (TOML, https://toml.io). Lines that start with "#" show the
# defaults: remove the "#" to change one. docs/configuration.md tells more.
"""

_UNITS: Final = (
    ("_per_s", "Per second."),
    ("_kbit", "In kbit/s."),
    ("_bytes", "In bytes."),
    ("_pps", "In packets a second."),
    ("_ms", "In milliseconds."),
    ("_s", "In seconds."),
)
"""Endings of names and their units. The first match counts, so longer endings come first."""

Chosen = Mapping[tuple[str, str], TomlValue]


def commented_configuration(chosen: Chosen) -> str:
    """Return a configuration file that sets ``chosen[section, setting]`` and shows all defaults.

    Raises:
        KeyError: ``chosen`` names a setting that does not exist.
    """
    remaining = dict(chosen)
    parts = [_HEAD]
    for section, settings_type in SECTIONS.items():
        parts.append(_header(section, (settings_type.__doc__ or "").partition(": ")[2]))
        for field in dataclasses.fields(settings_type):
            default = toml_default_of(field)
            value = remaining.pop((section, field.name), None)
            parts.append(_entry(field.name, _about(section, field), default, value))
        parts.extend(_plugin_parts(section))
    for section in BLOCKS:
        settings_type = block_settings_type(section)
        parts.append(_header(section, _first_sentence(settings_type)))
        parts.extend(_plain_entries(settings_type, section, remaining))
    if remaining:
        raise KeyError(next(iter(remaining)))
    return "\n".join(parts)


def _about(section: str, field: dataclasses.Field[Any]) -> str:
    """Return the description of a setting; if it names a plug-in, with all known names."""
    meaning = meaning_of(field)
    group, setting = PLUGIN_GROUPS.get(section, ("overlay.ipsec", "backend"))
    if field.name == setting:
        return f"{meaning} Known: {', '.join(plugin_names(group))}."
    return meaning


def _plugin_parts(section: str) -> Iterator[str]:
    if section not in PLUGIN_GROUPS:
        return
    group, _setting = PLUGIN_GROUPS[section]
    for name in plugin_names(group):
        settings_type = plugin_settings_type(group, name)
        if settings_type is not None and own_fields(settings_type):
            yield _header(f"{section}.{name}", _first_sentence(settings_type))
            yield from _plain_entries(settings_type)


def _plain_entries(
    settings_type: type[Any],
    section: str = "",
    chosen: dict[tuple[str, str], TomlValue] | None = None,
) -> Iterator[str]:
    """Yield the entries of a block or a plug-in, and remove its settings from ``chosen``."""
    meanings = field_meanings(settings_type)
    for field in own_fields(settings_type):
        about = meanings.get(field.name) or _from_name(field.name)
        value = chosen.pop((section, field.name), None) if chosen else None
        yield _entry(field.name, _with_unit(field.name, about), _plain_default(field), value)


def _plain_default(field: dataclasses.Field[Any]) -> TomlValue:
    return cast("TomlValue", field.default)


def _header(section: str, about: str) -> str:
    return f"\n[{section}]\n{_comment(about)}" if about else f"\n[{section}]"


def _entry(name: str, about: str, default: TomlValue, value: TomlValue | None) -> str:
    shown = f"# {name} = {toml_value(default)}"
    if value is not None:
        shown = f"{name} = {toml_value(value)}"
        if value != default:
            about = f"{about} Default: {toml_value(default)}."
    return f"\n{_comment(about)}\n{shown}"


def _comment(text: str) -> str:
    """Wrap a description as a comment. "##" distinguishes it from a setting, which has one "#"."""
    plain = re.sub(r":\w+:`~?([^`]*)`", r"\1", text).replace("``", "")
    return textwrap.fill(
        plain[:1].upper() + plain[1:],
        96,
        initial_indent="## ",
        subsequent_indent="## ",
        break_on_hyphens=False,
    )


def _first_sentence(settings_type: type[Any]) -> str:
    paragraph = (settings_type.__doc__ or "").strip().partition("\n\n")[0]
    return " ".join(paragraph.split())


def _from_name(name: str) -> str:
    return _split_unit(name)[0].replace("_", " ").capitalize() + "."


def _with_unit(name: str, about: str) -> str:
    """Add the unit that the name ends with, unless the description already has it."""
    unit = _split_unit(name)[1]
    said = unit.rstrip("s.").rpartition(" ")[2] in about
    return about if said else f"{about} {unit}"


def _split_unit(name: str) -> tuple[str, str]:
    """Return the name of a setting without its unit, and a sentence with the unit or ""."""
    for ending, unit in _UNITS:
        if name.endswith(ending):
            return name.removesuffix(ending), unit
    return name, ""


def toml_value(value: TomlValue) -> str:
    """Return a value in TOML. A JSON string is a basic string of TOML 1.0, except for DEL."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return f"[{', '.join(toml_value(item) for item in value)}]"
    return repr(value)
