"""Aligned text for people: tables with a heading, and lists of facts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["facts", "printable", "table"]


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return columns as wide as their longest cell, two spaces apart, without trailing spaces.

    Raises:
        ValueError: a row has not as many cells as the heading.
    """
    lines = [list(heading), *([printable(cell) for cell in row] for row in rows)]
    columns = list(zip(*lines, strict=True))
    widths = [max(len(cell) for cell in column) for column in columns]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Return one fact a line, its name in front, the values aligned."""
    rows = [(f"{name}:", printable(value)) for name, value in pairs]
    width = max((len(name) for name, _value in rows), default=0)
    return "\n".join(f"{name.ljust(width)}  {value}".rstrip() for name, value in rows)


def printable(text: str) -> str:
    """Return the text on one line, with "?" for what could move a terminal's cursor."""
    return "".join(character if character.isprintable() else "?" for character in text)
