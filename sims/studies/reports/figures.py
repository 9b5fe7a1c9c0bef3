"""Figures of a study, as PNG and SVG files and inline for the report.

Every figure shows means over seeds with 95 % intervals and the number of seeds. The same
results give the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from sims.metrics import Metric, metric_of
from sims.scenario.scenario import Scenario
from sims.scenario.study import Study
from sims.studies.reports.text import file_name, permitted, without_formulas
from sims.studies.results.curves import Band, count_band, over_time, quantile_band
from sims.studies.results.statistics import t_estimate
from sims.studies.results.summary import MetricSummary, PointSummary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

__all__ = ["ReportFigure", "draw_figures"]

_COLOURS: Final = ("#0b6e99", "#d1495b", "#2a9d5c", "#e09f3e", "#7b5ea7", "#5c6b73", "#b5651d")
"""Together with the line styles, these differ in grey and with red-green colour blindness."""

_LINES: Final = ("-", "--", "-.", ":")
_INK: Final = "#22303a"
_FAINT: Final = "#8796a1"
_MOST_LINES: Final = 6

Floats = npt.NDArray[np.float64]

_STYLE: Final[dict[str, object]] = {
    "axes.edgecolor": _FAINT,
    "axes.grid": True,
    "axes.labelcolor": _INK,
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": _INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 9.5,
    "figure.facecolor": "white",
    "font.family": "sans-serif",
    "font.size": 9,
    "grid.alpha": 0.35,
    "grid.linewidth": 0.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "savefig.dpi": 140,
    "svg.fonttype": "none",
    "svg.hashsalt": "overlay-sim",
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}


@dataclass(frozen=True, slots=True)
class ReportFigure:
    """One figure of the report.

    Attributes:
        name: file name without suffix.
        group: chapter of the report.
        caption: what it shows, in one or two sentences.
        svg: an SVG element to embed in HTML; its ids are unique on the page.
    """

    name: str
    group: str
    caption: str
    svg: str


def draw_figures(
    folder: Path, points: Sequence[PointSummary], study: Study
) -> tuple[list[ReportFigure], list[str]]:
    """Draw every metric and write the files.

    The second result is the reason why there are no figures, or empty.

    Raises:
        OSError: the folder cannot be written.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        return [], [
            "There are no figures, because matplotlib is missing; install what draws them with "
            '"pip install \'.[sims]\'" in a clone, and redraw with "overlay sim plot".'
        ]
    folder.mkdir(exist_ok=True)
    style: Any = {"backend": "agg", **_STYLE}  # its stubs list every key as a literal
    with mpl.rc_context(style):
        if len(points) > 1:
            return _sweep_figures(folder, points, study), []
        return _point_figures(folder, points[0]), []


def _point_figures(folder: Path, point: PointSummary) -> list[ReportFigure]:
    figures = []
    for name in dict.fromkeys(summary.metric for summary in point.metrics):
        metric = metric_of(name)
        parts = [summary for summary in point.metrics if summary.metric == name]
        if name in _NOT_DRAWN or _is_flat(parts, point):
            continue
        timed = any(_has_curve(part, point) for part in parts)
        canvas, axes = _canvas(2 if metric.kind == "distribution" and timed else 1)
        if not timed:
            what = "Cumulative distribution"
        elif len(parts) > _MOST_LINES:
            _bars(axes[0], metric, parts, point)
            what = "Mean of each part with its 95 % interval"
        else:
            _time_panel(axes[-1], metric, parts, point)
            what = "Mean over simulated time (the warm-up is shaded) with its 95 % band"
        if metric.kind == "distribution":
            _distribution_panel(axes[0], metric, parts, point)
            if timed:
                what = f"Left: cumulative distribution. Right: {what[0].lower()}{what[1:]}"
        count = sum(part.observations for part in parts)
        caption = f"{metric.meaning or name} {what}; {_counted(len(point.runs), count)}."
        figures.append(_saved(folder, canvas, name, metric, caption))
    return figures


_NOT_DRAWN: Final = ("session_on_s", "session_cut_s")
"""Not drawn: session_km_s shows the same with the sessions that outlast the run."""


def _has_curve(part: MetricSummary, point: PointSummary) -> bool:
    found = (run.values.get((part.metric, part.label)) for run in point.runs)
    return any(np.isfinite(each.curve).any() for each in found if each is not None)


def _is_flat(parts: Sequence[MetricSummary], point: PointSummary) -> bool:
    """Tell whether all values are equal; then a number says as much as a figure."""
    values = [
        value
        for part in parts
        for run in point.runs
        if (part.metric, part.label) in run.values
        for value in (
            run.values[part.metric, part.label].quantiles[0],
            run.values[part.metric, part.label].quantiles[-1],
        )
        if np.isfinite(value)
    ]
    return not values or max(values) == min(values)


def _counted(seeds: int, observations: int) -> str:
    return f"n = {seeds} seed{'' if seeds == 1 else 's'}, {observations:,} observations"


def _canvas(panels: int) -> tuple[Canvas, list[Axes]]:
    from matplotlib.figure import Figure as NewCanvas

    canvas = NewCanvas(figsize=(7.6, 2.75), layout="constrained")
    made = canvas.subplots(1, panels, squeeze=False)
    return canvas, list(made[0])


def _name_of(part: MetricSummary) -> str:
    return without_formulas(part.label or "all")


def _time_panel(
    axes: Axes, metric: Metric, parts: Sequence[MetricSummary], point: PointSummary
) -> None:
    scenario = point.point.scenario
    for number, part in enumerate(parts):
        band = over_time(scenario, point.runs, (part.metric, part.label)).where_known()
        colour, line = _COLOURS[number], _LINES[number % len(_LINES)]
        x = band.x * _time_unit(scenario)[0]
        axes.plot(x, band.mean, line, color=colour, label=_name_of(part))
        axes.fill_between(x, *_within(metric, band), color=colour, alpha=0.18, linewidth=0)
    _mark_times(axes, scenario)
    axes.set_xlabel(f"simulated {_time_unit(scenario)[1]} after the warm-up")
    axes.set_ylabel(without_formulas(metric.title))
    _share_limits(axes, metric)
    if len(parts) > 1:
        axes.legend()


def _time_unit(scenario: Scenario) -> tuple[float, str]:
    """Return how many time units make an hour, and the name of the unit."""
    return (1.0, "hours") if scenario.total_s > 2 * 3600 else (60.0, "minutes")


def _within(metric: Metric, band: Band) -> tuple[Floats, Floats]:
    """Limit a band to possible values: at least 0, and for fractions at most 1."""
    return np.maximum(band.low, 0.0), np.minimum(band.high, metric.highest)


def _mark_times(axes: Axes, scenario: Scenario) -> None:
    """Shade the warm-up, and draw a line where an event affects many nodes at once."""
    unit_s = 3600 / _time_unit(scenario)[0]
    axes.set_xlim(-scenario.warm_up_s / unit_s, scenario.duration_s / unit_s)
    if scenario.warm_up_s:
        axes.axvspan(-scenario.warm_up_s / unit_s, 0, color=_FAINT, alpha=0.13, linewidth=0)
    arrival = scenario.arrival
    if arrival.kind != "equilibrium":
        begins = arrival.at_s / unit_s
        axes.axvline(begins, color=_INK, linewidth=0.9, linestyle=":")
        axes.annotate(
            arrival.kind,
            (begins, 1),
            xycoords=("data", "axes fraction"),
            xytext=(3, -2),
            textcoords="offset points",
            va="top",
            fontsize=8,
        )
        if arrival.lasts_s:
            ends = (arrival.at_s + arrival.lasts_s) / unit_s
            axes.axvspan(begins, ends, color=_COLOURS[3], alpha=0.15, linewidth=0)


def _share_limits(axes: Axes, metric: Metric) -> None:
    """Set the limits of the value axis.

    Fractions above a half get an axis up to 1 with some space. Other values get an axis from
    zero if the smallest is below 60 % of the largest, so that small differences stay visible.
    """
    low, high = axes.get_ylim()
    if metric.highest == 1 and low > 0.5:
        axes.set_ylim(max(0.0, min(low, 0.9)), 1.01)
    elif low < high * 0.6:
        axes.set_ylim(0, high)


def _distribution_panel(
    axes: Axes, metric: Metric, parts: Sequence[MetricSummary], point: PointSummary
) -> None:
    for number, part in enumerate(parts[:_MOST_LINES]):
        colour, line = _COLOURS[number], _LINES[number % len(_LINES)]
        if metric.counts:
            _steps(axes, part, point, colour, line)
            continue
        band = quantile_band(point.runs, (part.metric, part.label))
        axes.plot(band.mean, band.x, line, color=colour, label=_name_of(part))
        axes.fill_betweenx(band.x, *_within(metric, band), color=colour, alpha=0.18, linewidth=0)
        axes.plot(band.mean[[52, 97]], band.x[[52, 97]], "o", color=colour, markersize=3.5)
    axes.set_ylim(0, 1.01)
    dots = "" if metric.counts else "; dots: median, 95th percentile"
    axes.set_xlabel(f"{without_formulas(metric.title)}{dots}")
    axes.set_ylabel("share of values up to x")


def _steps(axes: Axes, part: MetricSummary, point: PointSummary, colour: str, line: str) -> None:
    """Draw the distribution of whole numbers as steps, which rise only at whole numbers."""
    band = count_band(point.runs, (part.metric, part.label))
    axes.step(band.x, band.mean, line, where="post", color=colour, label=_name_of(part))
    low, high = np.maximum(band.low, 0.0), np.minimum(band.high, 1.0)
    axes.fill_between(band.x, low, high, step="post", color=colour, alpha=0.18, linewidth=0)


def _bars(axes: Axes, metric: Metric, parts: Sequence[MetricSummary], point: PointSummary) -> None:
    del point  # the summaries suffice
    places = range(len(parts))
    means = [part.mean.mean for part in parts]
    halves = [max(part.mean.high - part.mean.mean, 0.0) for part in parts]
    axes.bar(places, means, color=_COLOURS[0], width=0.7)
    axes.errorbar(places, means, halves, fmt="none", ecolor=_INK, elinewidth=1, capsize=2)
    labels = [without_formulas(part.label.rpartition("-")[2] or part.label) for part in parts]
    axes.set_xticks(list(places), labels)
    common = parts[0].label.rpartition("-")[0]
    axes.set_xlabel(without_formulas(common or "part"))
    axes.set_ylabel(without_formulas(metric.title))


def _sweep_figures(
    folder: Path, points: Sequence[PointSummary], study: Study
) -> list[ReportFigure]:
    figures = []
    names = dict.fromkeys(s.metric for point in points for s in point.metrics if not s.label)
    for name in names:
        metric = metric_of(name)
        parts = [s for p in points for s in p.metrics if s.metric == name and not s.label]
        means = {part.mean.mean for part in parts if np.isfinite(part.mean.mean)}
        flat = all(_is_flat([part], p) for part in parts[:1] for p in points)
        if name in _NOT_DRAWN or not means or (flat and len(means) == 1):
            continue
        canvas, axes = _canvas(1)
        _sweep_panel(axes[0], name, points, study)
        axes[0].set_ylabel(without_formulas(metric.title))
        _share_limits(axes[0], metric)
        counts = sorted({len(point.runs) for point in points})
        seeds = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
        caption = (
            f"{metric.meaning or name} Mean at each point of the sweep with its 95 % interval; "
            f"n = {seeds} seed{'' if counts == [1] else 's'} a point."
        )
        figures.append(_saved(folder, canvas, name, metric, caption))
    return figures


def _sweep_panel(axes: Axes, name: str, points: Sequence[PointSummary], study: Study) -> None:
    """Draw the first axis of the sweep along x, and a line per combination of the others."""
    first = study.axes[0]
    stride = len(points) // len(first.values)
    numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in first.values)
    places = list(first.values) if numeric else list(range(len(first.values)))

    def beside(number: int) -> float:
        return 0.08 * (number - (stride - 1) / 2)

    for number in range(stride):
        rows = points[number::stride]
        found = [t_estimate([r.values[name, ""].mean for r in p.runs if (name, "") in r.values])
                 for p in rows]  # fmt: skip
        label = rows[0].point.name.partition(" ")[2]
        axes.errorbar(
            [float(place) + (0.0 if numeric else beside(number)) for place in places],
            [each.mean for each in found],
            [max(each.high - each.mean, 0.0) if each.n > 1 else 0.0 for each in found],
            color=_COLOURS[number % len(_COLOURS)],
            # There are no values between two categories, so no line joins them.
            linestyle=_LINES[number // len(_COLOURS) % len(_LINES)] if numeric else "none",
            marker="o",
            markersize=3.5,
            capsize=3,
            label=without_formulas(label or name),
        )
    if not numeric:
        axes.set_xlim(-0.5, len(places) - 0.5)
        axes.set_xticks(
            list(range(len(places))), [without_formulas(str(value)) for value in first.values]
        )
    elif all(float(p) > 0 for p in places) and float(max(places)) >= 10 * float(min(places)):
        axes.set_xscale("log")
    axes.set_xlabel(without_formulas(first.setting))
    if stride > 1:
        axes.legend()


def _saved(folder: Path, canvas: Canvas, name: str, metric: Metric, caption: str) -> ReportFigure:
    name = file_name(name)
    canvas.savefig(folder / f"{name}.png", metadata={"Software": None})
    # Keep the layout of the first file, because finding a layout takes most of the time.
    canvas.set_layout_engine("none")
    buffer = io.StringIO()
    canvas.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    (folder / f"{name}.svg").write_text(buffer.getvalue(), encoding="utf-8")
    return ReportFigure(name, metric.group, caption, _inline(buffer.getvalue(), name, caption))


def _inline(svg: str, name: str, caption: str) -> str:
    """Turn an SVG file into an HTML element: no prolog, unique ids, a label for screen readers."""
    body = svg[svg.index("<svg") :].strip()
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = body.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    spoken = escape(permitted(caption))
    return body.replace("<svg ", f'<svg role="img" aria-label="{spoken}" ', 1)
