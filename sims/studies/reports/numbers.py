"""Format numbers for people: significant digits only, with unit and interval."""

from __future__ import annotations

import math

from sims.studies.results.statistics import Estimate

__all__ = ["duration", "interval", "number", "with_unit"]


def number(value: float) -> str:
    """Return a number with three or four significant digits, thousands grouped."""
    if not math.isfinite(value):
        return "\N{EN DASH}"
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    if size < 0.0005:
        return f"{value:.1e}"
    if 0.9995 <= size < 1:
        return f"{value:.6f}"  # three decimals would show it as 1
    decimals = 3 if size < 10 else 2 if size < 100 else 1
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def with_unit(value: float, unit: str) -> str:
    """Return a number and its unit."""
    return f"{number(value)} {unit}".strip()


def interval(estimate: Estimate) -> str:
    """Return the ends of a confidence interval as text, or a dash if there is none."""
    if not math.isfinite(estimate.low):
        return "\N{EN DASH}"
    return f"{number(estimate.low)} … {number(estimate.high)}"


def duration(seconds: float) -> str:
    """Return a duration in the largest suitable units: ``6 h``, ``1 h 30 min``, ``45 s``."""
    whole = round(seconds)
    if whole < 60:
        return f"{number(seconds)} s"
    parts = ((whole // 86400, "d"), (whole % 86400 // 3600, "h"), (whole % 3600 // 60, "min"))
    named = [f"{count} {unit}" for count, unit in parts if count]
    rest = f" {whole % 60} s" if whole < 600 and whole % 60 else ""
    return " ".join(named[:2]) + rest
