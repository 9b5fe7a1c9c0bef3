"""What an acceptance experiment says: measured points, each with the band that it must meet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Point", "Verdict", "exactly", "within"]


@dataclass(frozen=True, slots=True)
class Point:
    """One measured value and the band in which it must lie.

    Attributes:
        curve: which curve of the figure it belongs to, such as ``k = 8``.
        x: where on that curve.
        measured: what the product did.
        expected: what theory says; None where a gate is all there is.
        low, high: the band, its ends included.
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
        """Whether the measured value lies in its band; one that is no number does not."""
        return self.low <= self.measured <= self.high

    def __str__(self) -> str:
        """The point and its band in a line."""
        expected = "" if self.expected is None else f", expected {self.expected:.4g}"
        band = f"allowed [{self.low:.4g}, {self.high:.4g}]"
        return f"{self.curve} at {self.x:g}: got {self.measured:.4g}{expected}, {band}"


def within(
    curve: str, x: float, measured: float, expected: float, tolerance: float, error: float = 0.0
) -> Point:
    """Return a point that must lie within ``tolerance`` on both sides of ``expected``."""
    low, high = expected - tolerance, expected + tolerance
    return Point(curve, x, measured, expected, low, high, error)


def exactly(curve: str, x: float, measured: float, expected: float) -> Point:
    """Return a point that must equal what is expected."""
    return Point(curve, x, measured, expected, expected, expected)


@dataclass(frozen=True, slots=True)
class Verdict:
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
    points: tuple[Point, ...]
    seconds: float
    note: str = ""
    by_row: bool = False

    @property
    def passed(self) -> bool:
        """Whether something was measured and every point lies in its band."""
        return bool(self.points) and all(point.passed for point in self.points)
