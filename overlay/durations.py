"""Parse and write times with units: "500ms", "90s", "10m", "6h", "2d"."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["UNITS_S", "duration_text", "parse_duration"]

UNITS_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION: Final = re.compile(r"\s*(-?[0-9]{1,12}(?:\.[0-9]{1,9})?)\s*([a-z]{1,3})\s*")


def parse_duration(text: str) -> float | None:
    """Return the seconds of a number with its unit; None if the text is no such time.

    Units are ms, s, m (or min), h and d. A number without a unit is refused, because the user may
    mean seconds or hours.
    """
    matched = _DURATION.fullmatch(text)
    if matched is None or matched[2] not in UNITS_S:
        return None
    return float(matched[1]) * UNITS_S[matched[2]]


def duration_text(seconds: float) -> str:
    """Return a time with the largest unit that makes it a whole number, such as 6h or 90s.

    A time that is no whole number of milliseconds has the unit s.
    """
    for unit, length_s in (("d", 86_400.0), ("h", 3600.0), ("m", 60.0), ("s", 1.0)):
        if seconds >= length_s and seconds % length_s == 0:
            return f"{seconds / length_s:.0f}{unit}"
    milliseconds = seconds * 1000
    whole = seconds and seconds < 1 and milliseconds == round(milliseconds)
    return f"{milliseconds:.0f}ms" if whole else f"{seconds:g}s"
