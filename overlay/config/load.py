"""Read a TOML file into a :class:`Configuration`, and report a mistake with its location."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from overlay.config.blocks import (
    BLOCKS,
    PLUGIN_GROUPS,
    block_settings_type,
    followed,
    plugin_settings_type,
)
from overlay.config.configuration import Configuration
from overlay.config.sections import (
    ExitSettings,
    ForwardingSettings,
    IpsecSettings,
    NetworkSettings,
    NodeSettings,
    PathSettings,
    RoleSettings,
    SelectionSettings,
    TfcSettings,
)
from overlay.config.text import read_text, toml_tables
from overlay.errors import ConfigurationError
from overlay.plugins import NOUNS, load_plugin, plugin_names, unknown_name
from overlay.settings import declared, own_names, read_settings, refuse_unknown
from overlay.settings.shown import sentence

__all__ = ["SECTIONS", "load_configuration", "parse_configuration", "section_type"]

SECTIONS: Final[Mapping[str, type[Any]]] = {
    "node": NodeSettings,
    "network": NetworkSettings,
    "roles": RoleSettings,
    "exit": ExitSettings,
    "selection": SelectionSettings,
    "paths": PathSettings,
    "tfc": TfcSettings,
    "forwarding": ForwardingSettings,
    "ipsec": IpsecSettings,
}
"""Sections whose settings ``overlay.config.sections`` declares, in the order of the file."""

_MAX_SOCKET_PATH_BYTES: Final = 107
"""Linux allows 108 bytes in the address of a Unix socket (unix(7)), with a terminating zero."""

Table = Mapping[str, object]


def section_type(section: str) -> type[Any]:
    """Return the dataclass of a section, which may be that of a block.

    Raises:
        KeyError: there is no such section.
    """
    return SECTIONS[section] if section in SECTIONS else block_settings_type(section)


def load_configuration(path: Path) -> Configuration:
    """Read and check a configuration file.

    Raises:
        ConfigurationError: the file cannot be read, another user may change it, it is not
            TOML, or it has a mistake.
    """
    return parse_configuration(_read(path), path)


def parse_configuration(text: str, path: Path) -> Configuration:
    """Return the configuration of a checked text.

    Args:
        text: the text in TOML.
        path: the file for messages; relative paths in the text start at its directory.

    Raises:
        ConfigurationError: the text is not TOML, or it has a mistake.
    """
    tables = _parse_toml(text, path)
    try:
        return _configuration(tables, path.absolute().parent)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error


def _read(path: Path) -> str:
    try:
        return read_text(path, kind="configuration", trusted=True)
    except FileNotFoundError as error:
        raise ConfigurationError(
            f'there is no configuration file {path}; write one with "overlay init", '
            "or name another with --config."
        ) from error


def _parse_toml(text: str, path: Path) -> Table:
    try:
        return toml_tables(text)
    except ValueError as error:
        raise ConfigurationError(
            f"{path} is not valid TOML: {error}; correct that place."
        ) from error


def _configuration(tables: Table, directory: Path) -> Configuration:
    _check_sections(tables)
    for section, table in tables.items():
        if not isinstance(table, dict):
            raise ConfigurationError(
                f"{section} must be a section of its own; write [{section}] on a line "
                "and its settings below."
            )
    values = {
        section: _settings(section, settings_type, _own(tables, section), {})
        for section, settings_type in SECTIONS.items()
    }
    values |= {
        section: _settings(section, block_settings_type(section), _own(tables, section), values)
        for section in BLOCKS
    }
    plugins = _plugin_tables(tables, values)
    values["node"] = _anchored(values["node"], directory)
    try:
        configuration = Configuration(**values, plugin_tables=plugins)
    except ValueError as error:
        raise ConfigurationError(sentence(error)) from error
    _check_implementations(configuration)
    return configuration


def _own(tables: Table, section: str) -> Table:
    """Return the settings of a section without the tables of its plug-ins."""
    table: Any = tables.get(section, {})
    if section not in PLUGIN_GROUPS:
        return dict(table)
    return {name: value for name, value in table.items() if not isinstance(value, dict)}


def _settings(where: str, settings_type: type[Any], table: Table, sections: Table) -> Any:  # noqa: ANN401 - settings_type
    """Return checked settings; those that follow another section get its values."""
    for name in table:
        known = declared(settings_type).get(name)
        if known is not None and known.section:
            raise ConfigurationError(
                f"[{where}] {name} follows [{known.section}] {name}; set it there instead."
            )
    _check_homes(where, table, own_names(settings_type))
    return read_settings(where, settings_type, {**table, **followed(settings_type, sections)})


def _plugin_tables(tables: Table, sections: Table) -> dict[tuple[str, str], object]:
    """Return the checked settings of every [section.plug-in] table of the file."""
    found: dict[tuple[str, str], object] = {}
    for section, (group, _setting) in PLUGIN_GROUPS.items():
        table: Any = tables.get(section, {})
        for name, settings in table.items():
            if isinstance(settings, dict):
                found[group, name] = _plugin_table(section, group, name, settings, sections)
    return found


def _plugin_table(section: str, group: str, name: str, settings: Table, sections: Table) -> object:
    where = f"{section}.{name}"
    refuse_unknown(
        "section", [where], [f"{section}.{n}" for n in plugin_names(group)], "[{}]".format
    )
    settings_type = plugin_settings_type(group, name)
    if settings_type is None:
        if settings:
            raise ConfigurationError(
                f"[{where}] has no settings; leave {next(iter(settings))} out."
            )
        return None
    return _settings(where, settings_type, settings, sections)


def _anchored(node: NodeSettings, directory: Path) -> NodeSettings:
    """Make paths absolute, and check that the kernel accepts the length of the socket path."""
    state_dir = directory / node.state_dir
    socket = state_dir / node.control_socket
    if len(bytes(socket)) > _MAX_SOCKET_PATH_BYTES:
        raise ConfigurationError(
            f"[node] control_socket is {len(bytes(socket))} bytes long with its directory, and a "
            f"Unix socket's path has at most {_MAX_SOCKET_PATH_BYTES}; write a shorter one, such "
            'as "/run/overlay/control.sock".'
        )
    return dataclasses.replace(node, state_dir=state_dir, control_socket=socket)


def _check_implementations(configuration: Configuration) -> None:
    """Check that every plug-in that the file names is installed and can be loaded."""
    for section, (group, setting) in PLUGIN_GROUPS.items():
        name = getattr(getattr(configuration, section), setting)
        _check_plugin(section, setting, group, name)
    if configuration.ipsec.backend != "auto":
        _check_plugin("ipsec", "backend", "overlay.ipsec", configuration.ipsec.backend)


def _check_plugin(section: str, setting: str, group: str, name: str) -> None:
    known = plugin_names(group)
    if name not in known:
        # "auto" is not a plug-in, but lets the node choose one.
        known = ["auto", *known] if section == "ipsec" else known
        error = unknown_name(NOUNS[group], name, known)
        raise ConfigurationError(f"[{section}] {setting}: {error}")
    try:
        load_plugin(group, name)
    except Exception as error:  # importing runs foreign code, which may raise any exception
        raise ConfigurationError(
            f"[{section}] {setting}: {name!r} is installed but cannot be loaded "
            f"({type(error).__name__}: {error}); "
            "install what it needs or choose another."
        ) from error


def _check_sections(tables: Table) -> None:
    """Check the names of sections; the error for a setting outside a section names its section."""
    sections = (*SECTIONS, *BLOCKS)
    for name, value in tables.items():
        homes = [] if name in sections or isinstance(value, dict) else _homes(name)
        if homes:
            raise ConfigurationError(
                f"{name} is outside of a section; write it below the line {' or '.join(homes)}."
            )
    refuse_unknown("section", tables, sections, "[{}]".format)


def _check_homes(where: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Check the names of settings; the error for one of another section names that section."""
    names = list(known)
    for name in given:
        homes = [] if name in names else _homes(name)
        if homes:
            raise ConfigurationError(
                f"there is no [{where}] setting {name}; it belongs below {' or '.join(homes)}."
            )
    refuse_unknown(f"[{where}] setting", given, names)


def _homes(name: str) -> list[str]:
    """Return the headings of the sections that have a setting of that name."""
    sections = (*SECTIONS, *BLOCKS)
    return [f"[{each}]" for each in sections if name in own_names(section_type(each))]
