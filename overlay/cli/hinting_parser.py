"""A parser of the command line that suggests the word that the user may have meant."""

from __future__ import annotations

import argparse
import re
from typing import Final, NoReturn

__all__ = ["HintingParser"]

_INVALID: Final = re.compile(r"invalid choice: '([^']{1,80})' \(choose from (.*)\)$", re.DOTALL)
"""Message of argparse for a word that is not in a list; later versions of Python do not quote the
known words."""


class HintingParser(argparse.ArgumentParser):
    """Its parsers of commands are of this type too."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message, and end with status 2."""
        import difflib  # only for a mistake, so that every command starts fast

        found = _INVALID.search(message)
        if found is not None:
            known = [word.strip(" '") for word in found[2].split(",")]
            close = difflib.get_close_matches(found[1], known, 1)
            message += f"; did you mean {close[0]}?" if close else ""
        super().error(message)
