"""Show values in messages and documents."""

from __future__ import annotations

from typing import Final

__all__ = ["plain_number", "sentence", "shown"]

_MAX_SHOWN: Final = 80


def shown(value: object) -> str:
    """Return a value of the user for a message, cut to 80 characters."""
    try:
        full = f'"{value}"' if isinstance(value, str) else repr(value)
    except ValueError:  # an integer with more digits than Python prints
        return "a number of thousands of digits"
    return full if len(full) <= _MAX_SHOWN else f"{full[: _MAX_SHOWN - 3]}..."


def plain_number(value: float) -> str:
    """Return a number without an exponent if it is whole, as 86400 and 0.05."""
    return str(int(value)) if value == int(value) else f"{value:g}"


def sentence(error: Exception) -> str:
    """Return the message of an error with one full stop; a question keeps its mark."""
    text = str(error)
    return text if text.endswith("?") else f"{text.rstrip('.')}."
