"""Expectations of a scenario, such as ``lookup_success mean >= 0.95``."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

from overlay.settings import Kind
from overlay.settings.shown import shown

__all__ = ["COMPARISONS", "EXPECTATIONS", "QUANTILES", "STATISTICS", "Expectation"]

COMPARISONS: Final = (">=", "<=", ">", "<", "==")

STATISTICS: Final = ("mean", "sd", "min", "max", "count", "sum", "last")
"""Statistics of the values of one seed, besides ``median`` and quantiles."""

QUANTILES: Final = (0.0, 0.001, 0.005, *(n / 100 for n in range(1, 100)), 0.995, 0.999, 1.0)
"""Quantiles that are stored for every run. An expectation names them p0.1, p0.5 ... p99.9."""

_QUANTILE: Final = re.compile(r"p([0-9]{1,2}(?:\.[0-9])?)")
_NAME: Final = r"[A-Za-z][A-Za-z0-9_]{0,63}"
_TEXT: Final = re.compile(
    rf"\s*({_NAME})(?:\[([A-Za-z0-9._-]{{1,64}})\])?\s+([a-z][a-z0-9.]{{0,15}})"
    r"\s*(>=|<=|==|>|<)\s*(\S{1,32})\s*"
)
_MAX_EXPECTATIONS: Final = 100


@dataclass(frozen=True, slots=True)
class Expectation:
    """A bound on the mean over the seeds of a statistic of each seed's values.

    Attributes:
        metric: name of the metric.
        statistic: one of :data:`STATISTICS`, ``median``, or a quantile such as ``p95``.
        comparison: operator between the measured value and ``bound``.
        bound: in the unit of the metric.
        label: label of the values, or empty for values without one.

    Raises:
        ValueError: the message completes "expect ...".
    """

    metric: str
    statistic: str
    comparison: str
    bound: float
    label: str = ""

    def __post_init__(self) -> None:
        if self.statistic not in STATISTICS and self.quantile is None:
            raise ValueError(
                f"has the statistic {shown(self.statistic)}; write one of "
                f"{', '.join(STATISTICS)}, median or a quantile such as p95"
            )
        if self.comparison not in COMPARISONS:
            raise ValueError(
                f"compares by {shown(self.comparison)}; write one of {' '.join(COMPARISONS)}"
            )
        if not math.isfinite(self.bound):
            raise ValueError(f"has the bound {self.bound}; write a finite number")

    @classmethod
    def parse(cls, text: str) -> Expectation:
        """Parse ``METRIC[LABEL] STATISTIC COMPARISON BOUND``; the label is optional.

        Raises:
            ValueError: the text has another form; the message completes "expect ...".
        """
        matched = _TEXT.fullmatch(text)
        if matched is None:
            raise ValueError(
                f'has {shown(text)}; write it as "lookup_success mean >= 0.95": a metric, '
                "a statistic, a comparison and a bound"
            )
        try:
            bound = float(matched[5])
        except ValueError as error:
            raise ValueError(f"has the bound {shown(matched[5])}, which is no number") from error
        return cls(matched[1], matched[3], matched[4], bound, matched[2] or "")

    def __str__(self) -> str:
        metric = f"{self.metric}[{self.label}]" if self.label else self.metric
        return f"{metric} {self.statistic} {self.comparison} {self.bound!r}"

    @property
    def quantile(self) -> float | None:
        """The quantile from 0 to 1, or None if the statistic is not a quantile."""
        if self.statistic == "median":
            return 0.5
        matched = _QUANTILE.fullmatch(self.statistic)
        asked = round(float(matched[1]) / 100, 4) if matched else None
        return asked if asked in QUANTILES else None

    def holds(self, value: float) -> bool:
        """Tell whether a measured value meets the bound. NaN (nothing measured) does not."""
        return {
            ">=": value >= self.bound,
            "<=": value <= self.bound,
            ">": value > self.bound,
            "<": value < self.bound,
            "==": value == self.bound,
        }[self.comparison]


def _expectations(value: object) -> tuple[Expectation, ...]:
    if not isinstance(value, list | tuple) or len(value) > _MAX_EXPECTATIONS:
        raise ValueError(
            f"must be a list of at most {_MAX_EXPECTATIONS} sentences such as "
            f'"lookup_success mean >= 0.95", not {shown(value)}'
        )
    return tuple(_expectation(item) for item in value)


def _expectation(item: object) -> Expectation:
    if isinstance(item, Expectation):
        return item
    if not isinstance(item, str):
        raise ValueError(f'has {shown(item)}; write it as "lookup_success mean >= 0.95"')  # noqa: TRY004 - the user's
    return Expectation.parse(item)


EXPECTATIONS: Final = Kind(
    f"a list of at most {_MAX_EXPECTATIONS} sentences", _expectations, repeats=True
)
