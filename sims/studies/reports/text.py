"""Text from results that another user may have written, for HTML, figures and file names."""

from __future__ import annotations

import hashlib
import re
from typing import Final

__all__ = ["file_name", "permitted", "without_formulas"]

_NONCHARACTERS: Final = "".join(chr(high + low) for high in range(0, 0x110000, 0x10000)
                                for low in (0xFFFE, 0xFFFF))  # fmt: skip
_NOT_PERMITTED: Final = re.compile(
    f"[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef{_NONCHARACTERS}]"
)
_FILE_NAME: Final = re.compile(r"[A-Za-z0-9_]{1,64}")


def permitted(text: str) -> str:
    """Replace the characters that a document must not contain (HTML, section 13.2.3.5)."""
    return _NOT_PERMITTED.sub("\N{REPLACEMENT CHARACTER}", text)


def without_formulas(text: str) -> str:
    """Return a text that matplotlib draws as it is.

    matplotlib takes text between dollar signs as a formula, and refuses what is no formula.
    """
    return permitted(text).replace("$", r"\$")


def file_name(metric: str) -> str:
    """Return the name of a metric, or a hash if it is unsuitable as a file name and HTML id."""
    if _FILE_NAME.fullmatch(metric):
        return metric
    return "metric_" + hashlib.sha256(metric.encode(errors="replace")).hexdigest()[:12]
