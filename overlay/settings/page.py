"""Keep the tables of settings in a document equal to the declarations.

A table stands between two lines of its own::

    <!-- settings: network -->
    <!-- end of settings -->
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

__all__ = ["refreshed", "write_tables"]

_BLOCK: Final = re.compile(
    r"(?ms)^<!-- settings: (?P<name>[^ ]+) -->$.*?^<!-- end of settings -->$"
)


def refreshed(page: str, tables: Mapping[str, str]) -> str:
    """Return a page with the current text of every marked table.

    Args:
        page: the text of the document.
        tables: the current tables by the names that the marks have.

    Raises:
        ValueError: the page marks a table that does not exist, or a table has no mark.
    """
    marked = {found["name"] for found in _BLOCK.finditer(page)}
    if marked != set(tables):
        different = ", ".join(sorted(marked ^ set(tables)))
        raise ValueError(f"the page and the declarations have different tables: {different}")

    def block(found: re.Match[str]) -> str:
        name = found["name"]
        return f"<!-- settings: {name} -->\n{tables[name]}\n<!-- end of settings -->"

    return _BLOCK.sub(block, page)


def write_tables(page: Path, tables: Mapping[str, str]) -> None:
    """Write the current tables into a document."""
    page.write_text(refreshed(page.read_text(encoding="utf-8"), tables), encoding="utf-8")
