"""Results of acceptance experiments: measured points and the bands that they must be in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["CheckedValue", "ExperimentResult", "exactly", "within"]


@dataclass(frozen=True, slots=True)
class CheckedValue:
    """One measured value and the band that it must be in.

    Attributes:
        curve: name of the curve in the figure, such as ``k = 8``.
        x: position on that curve.
        measured: the value of the product.
        expected: the value of theory; None if there is only a band.
        low, high: the band, including its ends.
        error: standard error of ``measured``, 0 if it is exact or unknown.
    """

    curve: str
    x: float
    measured: float
    expected: float | None
    low: float
    high: float
    error: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether the measured value is in its band; False for NaN."""
        return self.low <= self.measured <= self.high

    def __str__(self) -> str:
        """The point and its band as one line."""
        expected = "" if self.expected is None else f", expected {self.expected:.4g}"
        band = f"allowed [{self.low:.4g}, {self.high:.4g}]"
        return f"{self.curve} at {self.x:g}: got {self.measured:.4g}{expected}, {band}"


def within(
    curve: str, x: float, measured: float, expected: float, tolerance: float, error: float = 0.0
) -> CheckedValue:
    """Return a point with a band of ``expected`` plus and minus ``tolerance``."""
    low, high = expected - tolerance, expected + tolerance
    return CheckedValue(curve, x, measured, expected, low, high, error)


def exactly(curve: str, x: float, measured: float, expected: float) -> CheckedValue:
    """Return a point that must equal the expected value."""
    return CheckedValue(curve, x, measured, expected, expected, expected)


@dataclass(frozen=True, slots=True)
class ExperimentResult:
    """The outcome of one experiment.

    Attributes:
        name: E1 to E25, or M1.
        title: the question in a few words.
        tolerance: how far from the expectation a measurement may lie, in words.
        x_label, y_label: the axes of its figure.
        settings: the parameters that it ran with.
        points: every measurement, in order.
        seconds: wall time.
        note: what the reader must know besides; empty if nothing.
        by_row: whether the points have different units, so that they share no axis.
    """

    name: str
    title: str
    tolerance: str
    x_label: str
    y_label: str
    settings: Mapping[str, object]
    points: tuple[CheckedValue, ...]
    seconds: float
    note: str = ""
    by_row: bool = False

    @property
    def passed(self) -> bool:
        """Whether something was measured and every point is in its band."""
        return bool(self.points) and all(point.passed for point in self.points)
