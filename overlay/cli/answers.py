"""The output of a command, as text for people and as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass

__all__ = ["CommandOutput"]


@dataclass(frozen=True, slots=True)
class CommandOutput:
    """The output of one command.

    Attributes:
        text: for people, without a final newline.
        plain: the same facts, in types that ``json.dumps`` accepts.
    """

    text: str
    plain: object

    def shown(self, *, as_json: bool) -> str:
        """Return the text to print. JSON is one line."""
        return json.dumps(self.plain) if as_json else self.text
