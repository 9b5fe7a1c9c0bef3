"""Write a number with its noun in the right form, as in "1 exit" and "2 exits"."""

from __future__ import annotations

__all__ = ["counted"]


def counted(number: int, noun: str, many: str = "") -> str:
    """Return a number with its noun; ``many`` is the plural form if it is not ``noun`` plus "s"."""
    return f"{number} {noun if number == 1 else many or f'{noun}s'}"
