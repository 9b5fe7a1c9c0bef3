"""Read text files that a user wrote, with a size limit and with error messages for the user."""

from __future__ import annotations

import codecs
import tomllib
from pathlib import Path
from typing import Final

from overlay.errors import ConfigurationError
from overlay.trust import insist_on_trust

__all__ = ["read_text", "toml_tables"]

_MAX_FILE_BYTES: Final = 1_000_000


def read_text(path: Path, *, kind: str, trusted: bool = False) -> str:
    """Return the text of a file of at most 1 MB, without a byte-order mark.

    ``kind`` is the expected kind of file, for messages. If ``trusted`` is set, a file that another
    user may change is refused (:mod:`overlay.trust`).

    Raises:
        FileNotFoundError: there is no such file; the caller adds what the user should do.
        ValueError: no file can have that name, because it contains a zero byte.
        ConfigurationError: the file cannot be read, is too large, is not UTF-8, or another user
            may change it.
    """
    try:
        with path.open("rb") as file:
            if trusted:
                insist_on_trust(path, file.fileno())
            data = file.read(_MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be read ({error.strerror}); make it a file that this user may read."
        ) from error
    if len(data) > _MAX_FILE_BYTES:
        raise ConfigurationError(f"{path} is larger than 1 MB, which no {kind} is.")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ConfigurationError(
            f"{path} is UTF-16, as its byte-order mark shows; save it as UTF-8."
        )
    try:
        # Editors on Windows write a byte-order mark, which means nothing in UTF-8 (RFC 3629).
        return data.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(
            f"{path} is not UTF-8 at line {line}; save it as UTF-8."
        ) from error


def toml_tables(text: str) -> dict[str, object]:
    """Parse TOML.

    Raises:
        ValueError: the text is not TOML; the message is a clause that begins in lower case.
    """
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except ValueError as error:
        # Not only TOMLDecodeError: Python also raises ValueError for integers of thousands of
        # digits (with advice to programmers after a semicolon) and for dates that do not exist.
        reason = str(error).split(";")[0]
        raise ValueError(f"{reason[:1].lower()}{reason[1:]}") from error
