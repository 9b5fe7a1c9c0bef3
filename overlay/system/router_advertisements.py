"""Keep this host's IPv6 routes while it forwards IPv6.

If forwarding is switched on, Linux ignores router advertisements on devices with ``accept_ra`` = 1
and removes the default routes that it learned (ip-sysctl: accept_ra). A host without an
advertisement so far would never get a route. So the value is set to 2 on every device, and in the
default for new devices, before forwarding is switched on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from overlay.system.kernel_settings import (
    KernelSetting,
    change_setting,
    listed_settings,
    parse_note,
    read_setting,
)

__all__ = ["accept_advertisements", "give_back_inherited"]

_NONE: Final = frozenset(("default", "lo"))
_DEFAULT: Final = "net/ipv6/conf/default/accept_ra"
_WHILE_FORWARDING: Final = "2"
_UNLESS_FORWARDING: Final = "1"


def accept_advertisements(
    read: Callable[[str], str | None] = read_setting, devices: Iterable[str] | None = None
) -> list[KernelSetting]:
    """Return the settings to change; ``devices`` None stands for all devices with IPv6."""
    names = _devices() if devices is None else list(devices)
    settings = [f"net/ipv6/conf/{each}/accept_ra" for each in names]
    return [(each, _WHILE_FORWARDING) for each in settings if read(each) == _UNLESS_FORWARDING]


def give_back_inherited(notes: Iterable[str]) -> None:
    """Restore the setting on new devices, which inherited the changed default.

    ``notes`` are the notes of all changed settings (``overlay.system.noted_settings``).

    Raises:
        BackendError: a setting could not be written.
    """
    noted = dict(filter(None, map(parse_note, notes)))
    if noted.get(_DEFAULT) != _UNLESS_FORWARDING:
        return
    for device in _devices():
        name = f"net/ipv6/conf/{device}/accept_ra"
        if name not in noted and read_setting(name) == _WHILE_FORWARDING:
            change_setting(name, _UNLESS_FORWARDING)


def _devices() -> list[str]:
    """Return the names of all devices with IPv6.

    "default" is first, so that a device which appears meanwhile inherits the changed value.
    """
    names = listed_settings("net/ipv6/conf")
    return [*(["default"] if "default" in names else []), *(n for n in names if n not in _NONE)]
