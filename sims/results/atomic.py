"""Files that are there whole or not at all, whatever stops the program."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["write_json", "write_lines", "write_text"]


def write_text(path: Path, text: str) -> None:
    """Write a text, encoded as UTF-8, under its name only once it is whole.

    Raises:
        OSError: no room, no permission; the old file, if any, stays.
    """
    write_lines(path, (text,))


def write_json(path: Path, value: object) -> None:
    """Write a value as JSON for people: indented, with a final newline."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_lines(path: Path, pieces: Iterable[str]) -> None:
    """Write pieces of text one after the other; see :func:`write_text`."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("w", encoding="utf-8", newline="") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)  # on a full disk it is what fills it
        raise
