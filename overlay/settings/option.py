"""Add options to a command line for declared settings."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Protocol

from overlay.settings.declaration import Setting
from overlay.settings.describe import help_text
from overlay.settings.kinds import FLAG

__all__ = ["add_option"]


class _Options(Protocol):
    """A parser, or a group of one."""

    @property
    def add_argument(self) -> Callable[..., argparse.Action]: ...


def add_option(
    to: _Options,
    flag: str,
    known: Setting,
    *,
    remark: str,
    metavar: str | None = None,
    check: bool = False,
) -> None:
    """Add an option that sets one setting; without the option, its value is None.

    An option of a list of words may be repeated.

    Args:
        to: the parser or group.
        flag: the option, such as "--hops".
        known: the setting.
        remark: the end of the help, such as "default: as configured".
        metavar: stands for the value in the help.
        check: check the range here, for a value that no table of settings receives.
    """
    kind = known.kind
    if kind is FLAG:
        about = help_text(known, remark)
        to.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=about)
    elif kind.repeats:
        about = help_text(known, f"repeatable; {remark}")
        choices = kind.choices or None
        to.add_argument(flag, action="append", metavar=metavar, choices=choices, help=about)
    else:
        about = help_text(known, remark)
        read = _checked(known) if check else kind.read
        choices = kind.choices or None
        to.add_argument(flag, type=read, metavar=metavar, choices=choices, help=about)


def _checked(known: Setting) -> Callable[[str], object]:
    def parse(text: str) -> object:
        try:
            return known.kind.parse(known.kind.read(text))
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse
