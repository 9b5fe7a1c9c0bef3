"""What a command answers: text for people and the same as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass

__all__ = ["CommandOutput"]


@dataclass(frozen=True, slots=True)
class CommandOutput:
    """``text`` without a final newline; ``plain`` is made of JSON's own types."""

    text: str
    plain: object

    def shown(self, *, as_json: bool) -> str:
        """Return what to print; JSON takes one line."""
        return json.dumps(self.plain) if as_json else self.text
