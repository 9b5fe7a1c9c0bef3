"""A workaround for values of options that begin with a dash."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

__all__ = ["joined_values"]

_OPTION: Final = re.compile(r"--[a-z][a-z-]*")
_NEGATIVE_TIME: Final = re.compile(r"-[0-9]+(\.[0-9]+)?[a-z]+")


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
