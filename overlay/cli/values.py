"""Parsers for the values of options, and a workaround for values that begin with a dash."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from typing import Final

__all__ = ["joined_values", "whole_number"]

_OPTION: Final = re.compile(r"--[a-z][a-z-]*")
_NEGATIVE_TIME: Final = re.compile(r"-[0-9]+(\.[0-9]+)?[a-z]+")


def whole_number(lowest: int, highest: int | None = None) -> Callable[[str], int]:
    """Return a parser for whole numbers from ``lowest`` to ``highest`` (None: unlimited).

    It is used as ``add_argument(type=...)``.
    """
    wanted = f"a whole number from {lowest} " + (f"to {highest}" if highest is not None else "on")

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or value < lowest or (highest is not None and value > highest):
            raise argparse.ArgumentTypeError(f"write {wanted}, not {text[:40]!r}")
        return value

    return parse


def joined_values(argv: Sequence[str]) -> list[str]:
    """Return the words with each negative time joined to its option, as in "--duration=-1h".

    argparse takes a separate "-1h" for an option and reports a missing value. A joined one
    reaches the check of the setting, whose error states the valid range.
    """
    words: list[str] = []
    for word in argv:
        if words and _OPTION.fullmatch(words[-1]) and _NEGATIVE_TIME.fullmatch(word):
            words[-1] = f"{words[-1]}={word}"
        else:
            words.append(word)
    return words
