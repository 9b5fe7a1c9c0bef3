"""The places of a node's files: default directory, configuration and control socket."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from overlay.config import Configuration, load_configuration

__all__ = [
    "CONFIGURATION_FILE",
    "configuration_file",
    "configuration_of",
    "control_socket_of",
    "default_directory",
    "own_directory",
]

CONFIGURATION_FILE: Final = "overlay.toml"

_SYSTEM_DIRECTORY: Final = Path("/var/lib/overlay")


def default_directory(user: int, environment: Mapping[str, str]) -> Path:
    """Return the directory of a user's node (XDG Base Directory Specification, state files)."""
    if user == 0:
        return _SYSTEM_DIRECTORY
    state = Path(environment.get("XDG_STATE_HOME", ""))
    if not state.is_absolute():  # the specification says that relative paths are ignored
        state = Path(environment.get("HOME") or Path.home()) / ".local" / "state"
    return state / "overlay"


def configuration_of(given: Path | None) -> Configuration:
    """Load the configuration that the user named, or the default one.

    Raises:
        ConfigurationError: the file is missing or has an error.
    """
    return load_configuration(configuration_file(given))


def configuration_file(given: Path | None) -> Path:
    """Return the file that the user named, or the default one."""
    return given or own_directory() / CONFIGURATION_FILE


def control_socket_of(configuration: Path | None, socket: Path | None) -> Path:
    """Return the socket that the user named, or the one that the configuration names.

    Raises:
        ConfigurationError: the configuration is missing or has an error.
    """
    return socket or configuration_of(configuration).node.control_socket


def own_directory() -> Path:
    """Return the default directory of the user that runs this process."""
    return default_directory(os.geteuid(), os.environ)
