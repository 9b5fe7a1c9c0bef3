"""Draw one figure per experiment: measured values, expected values and bands."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from overlay.errors import BackendError
from sims.acceptance.experiment_result import CheckedValue, ExperimentResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]

_INCHES: Final = (7.0, 4.5)
_FORMATS: Final = ("png", "svg")
_MOST_CURVES: Final = 10
"""Number of colours that can be distinguished. More curves are drawn as rows."""

_BEYOND: Final = 0.35
"""A value outside of its band is drawn at most this far away, in widths of the band."""

_WIDE: Final = 50.0
"""If the x values span more than this ratio, the axis is logarithmic."""


def draw(verdict: ExperimentResult, directory: Path) -> list[Path]:
    """Write a verdict's figure as PNG and SVG and return the files.

    Raises:
        BackendError: a file cannot be written.
    """
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curves = list(dict.fromkeys(point.curve for point in verdict.points))
    if verdict.by_row or len(curves) > _MOST_CURVES:
        return _draw_rows(verdict, directory)
    figure = Figure(figsize=_INCHES, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, curve in enumerate(curves):
        _draw_curve(axes, [p for p in verdict.points if p.curve == curve], f"C{number % 10}")
    if _is_wide([point.x for point in verdict.points]):
        axes.set_xscale("log", base=2)
    word = "holds" if verdict.passed else "does NOT hold"
    axes.set_title(f"{verdict.name} {word}: {verdict.title}\n{verdict.tolerance}", fontsize=9)
    axes.set_xlabel(verdict.x_label)
    axes.set_ylabel(verdict.y_label)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    return [_save(figure, directory / f"{verdict.name}.{suffix}") for suffix in _FORMATS]


def _draw_rows(verdict: ExperimentResult, directory: Path) -> list[Path]:
    """Draw each measurement in a row, at its relative place in its band.

    Measurements with different units cannot share an axis of values.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points = [p for p in verdict.points if math.isfinite(p.low) and math.isfinite(p.high)]
    figure = Figure(figsize=(_INCHES[0], 1.4 + 0.24 * max(len(points), 4)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.axvspan(0, 1, color="C2", alpha=0.15, linewidth=0)
    for row, point in enumerate(points):
        place = min(max(_place(point), -_BEYOND), 1 + _BEYOND)
        axes.plot(place, row, "o" if point.passed else "x", color="C0" if point.passed else "red")
    # If a curve has several rows, the label includes their x value.
    several = len({point.curve for point in points}) < len(points)
    names = [f"{p.curve}, {verdict.x_label} {p.x:g}" if several else p.curve for p in points]
    axes.set_yticks(range(len(points)), names, fontsize=7)
    for row, point in enumerate(points):
        text = f"{point.measured:.3g} in [{point.low:.3g}, {point.high:.3g}]"
        axes.annotate(
            text, (1.02, row), xycoords=("axes fraction", "data"), va="center", fontsize=7
        )
    axes.set_xlim(-_BEYOND - 0.05, 1 + _BEYOND + 0.05)
    axes.set_ylim(len(points) - 0.5, -0.5)
    axes.set_xticks([0, 1], ["lower end", "upper end"])
    axes.set_xlabel("place in the allowed band (shaded)")
    axes.grid(alpha=0.3, axis="x")
    word = "holds" if verdict.passed else "does NOT hold"
    axes.set_title(f"{verdict.name} {word}: {verdict.title}\n{verdict.tolerance}", fontsize=9)
    return [_save(figure, directory / f"{verdict.name}.{suffix}") for suffix in _FORMATS]


def _place(point: CheckedValue) -> float:
    """Return the relative place of a point in its band: 0 at the lower end, 1 at the upper."""
    if point.high == point.low:
        return 0.5 if point.passed else math.copysign(math.inf, point.measured - point.low)
    return (point.measured - point.low) / (point.high - point.low)


def _draw_curve(axes: Axes, points: list[CheckedValue], colour: str) -> None:
    points = sorted(points, key=lambda point: point.x)
    xs = [point.x for point in points]
    axes.errorbar(
        xs,
        [point.measured for point in points],
        yerr=[1.96 * point.error for point in points],
        fmt="o",
        color=colour,
        capsize=3,
        label=points[0].curve,
    )
    bounded = [p for p in points if math.isfinite(p.low) and math.isfinite(p.high)]
    for point in bounded:
        axes.vlines(point.x, point.low, point.high, color=colour, alpha=0.25, linewidth=7)
    expected = [(point.x, point.expected) for point in points if point.expected is not None]
    if expected:
        axes.plot(*zip(*expected, strict=True), "--", color=colour, linewidth=1)
    failed = [point for point in points if not point.passed]
    if failed:
        axes.plot([p.x for p in failed], [p.measured for p in failed], "x", color="red", ms=12)


def _is_wide(xs: list[float]) -> bool:
    return bool(xs) and min(xs) > 0 and max(xs) / min(xs) > _WIDE


def _save(figure: object, path: Path) -> Path:
    try:
        figure.savefig(  # type: ignore[attr-defined]  # matplotlib's Figure, imported lazily
            path, dpi=120, metadata={"Date": None} if path.suffix == ".svg" else None
        )
    except OSError as error:
        raise BackendError(f"{path} cannot be written: {error.strerror}.") from error
    return path
