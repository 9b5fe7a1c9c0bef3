"""Declare settings once: type, unit, bounds, default and meaning, in one line each.

A block, a plug-in, a scenario or an experiment derives a frozen dataclass from :class:`Settings`::

    @dataclass(frozen=True, slots=True)
    class PadSettings(Settings):
        dummy_rate_pps: float = setting(
            0, number(0, 1000, "packets per second"), "Mean rate of dummy packets on each link."
        )

Validation, the commented configuration file, the tables of the documentation and the options of
the command line are derived from these declarations (docs/decisions/0062).
"""

from overlay.settings.declaration import Setting, Settings, TomlValue, declared, follows, setting
from overlay.settings.kinds import (
    FLAG,
    Kind,
    many,
    number,
    one_of,
    or_zero,
    seconds,
    some_of,
    whole,
)
from overlay.settings.read import own_names, read_settings, refuse_unknown

__all__ = [
    "FLAG",
    "Kind",
    "Setting",
    "Settings",
    "TomlValue",
    "declared",
    "follows",
    "many",
    "number",
    "one_of",
    "or_zero",
    "own_names",
    "read_settings",
    "refuse_unknown",
    "seconds",
    "setting",
    "some_of",
    "whole",
]
