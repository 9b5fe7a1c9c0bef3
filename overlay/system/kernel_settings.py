"""Read and change kernel settings below ``/proc/sys``, and parse notes of former values.

Names are paths with slashes (``net/ipv4/conf/eth0.100/forwarding``), because the dots of a VLAN's
name would be ambiguous in sysctl's notation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from overlay.system.failures import refused

__all__ = [
    "SETTINGS_ROOT",
    "KernelSetting",
    "change_setting",
    "listed_settings",
    "parse_note",
    "read_setting",
]

SETTINGS_ROOT: Final = Path("/proc/sys")

KernelSetting = tuple[str, str]
"""Name and value."""


def read_setting(name: str) -> str | None:
    """Return the value of a setting, or None if this kernel or device does not support it."""
    try:
        return (SETTINGS_ROOT / name).read_text().strip()
    except OSError:
        return None


def listed_settings(directory: str) -> list[str]:
    """Return the sorted names in a directory of settings; none if the kernel does not have it."""
    try:
        return sorted(each.name for each in (SETTINGS_ROOT / directory).iterdir())
    except OSError:
        return []


def change_setting(name: str, value: str) -> None:
    """Write a setting unless it already has the value.

    Raises:
        BackendError: the setting is read-only or unknown.
    """
    if read_setting(name) == value:
        return
    try:
        (SETTINGS_ROOT / name).write_text(value)
    except OSError as error:
        remedy = f"set it outside, with `sysctl -w {name}={value}`, where /proc/sys is read-only"
        raise refused(f"setting {name} to {value}", error, remedy) from error


def parse_note(note: str) -> KernelSetting | None:
    """Parse "name=value" as a setting below ``net/``; return None if it is not one."""
    name, separator, value = note.partition("=")
    safe = name.startswith("net/") and ".." not in name.split("/")
    return (name, value) if separator and safe and value.isdecimal() else None
