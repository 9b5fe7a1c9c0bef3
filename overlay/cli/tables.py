"""Format aligned text for people: tables with a heading, and lists of facts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["facts", "printable", "table"]


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table with columns two spaces apart, each as wide as its longest cell.

    Raises:
        ValueError: the number of cells in a row differs from that of the heading.
    """
    lines = [list(heading), *([printable(cell) for cell in row] for row in rows)]
    columns = list(zip(*lines, strict=True))
    widths = [max(len(cell) for cell in column) for column in columns]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Return one fact per line: its name, a colon, and its value. The values are aligned."""
    rows = [(f"{name}:", printable(value)) for name, value in pairs]
    width = max((len(name) for name, _value in rows), default=0)
    return "\n".join(f"{name.ljust(width)}  {value}".rstrip() for name, value in rows)


def printable(text: str) -> str:
    """Return the text with "?" for each control character.

    Texts of peers could otherwise contain line breaks and terminal escape sequences.
    """
    return "".join(character if character.isprintable() else "?" for character in text)
