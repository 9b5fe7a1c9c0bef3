"""Write files atomically: after a crash a file is complete or absent."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["write_json", "write_lines", "write_text"]


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8; the file gets its name only when it is complete.

    Raises:
        OSError: the disk is full or access is denied; an older file stays unchanged.
    """
    write_lines(path, (text,))


def write_json(path: Path, value: object) -> None:
    """Write a value as indented JSON with a final newline."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_lines(path: Path, pieces: Iterable[str]) -> None:
    """Write the pieces of a text in order, as :func:`write_text` does."""
    part = path.with_name(f".{path.name}.part")
    try:
        # JSON that was read can contain half of a surrogate pair, which UTF-8 cannot express.
        with part.open("w", encoding="utf-8", errors="replace", newline="") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)  # on a full disk the partial file occupies the space
        raise
