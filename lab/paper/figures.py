"""Draw the figures: round trips over packet size, and jitter over path length, both in ms.

As in the paper, Figures 7 to 10 have one curve for each number of tunnels, and Figures 11 to 14
one for each packet size. Axes are logarithmic, because on a linear axis five of the paper's seven
sizes would share its first quarter. An error bar that would continue below the axis ends there,
because a logarithmic axis has no zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from lab.paper.cells import CIPHERS, FIGURES, SIZES, TUNNELS, MeasuredQuantity, PaperFigure
from lab.paper.summary import Row

__all__ = ["draw_all"]

_COLOURS: Final = (
    "#000000", "#0072B2", "#009E73", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9",
)  # fmt: skip
"""Okabe and Ito's palette for all kinds of colour vision; shapes distinguish the curves as well."""

_MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X")
_LABELS: Final = {
    MeasuredQuantity.RTT: "Round-trip time (ms)",
    MeasuredQuantity.JITTER: "Jitter, RFC 3550 (ms)",
}
_TITLES: Final = {
    MeasuredQuantity.RTT: "ICMP round-trip time",
    MeasuredQuantity.JITTER: "UDP jitter",
}
_SPREAD: Final = 0.012
"""Distance between curves, as a fraction of the size, so that error bars do not hide each other."""

_LOOKS: Final[Any] = {  # the keys' type differs between matplotlib's versions
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "legend.frameon": False,
    "svg.hashsalt": "paper",  # the same figure gives the same file
    "svg.fonttype": "none",
}


def draw_all(rows: Sequence[Row], directory: Path) -> list[Path]:
    """Draw every figure that has rows, as PNG and SVG; return the files.

    Figures of one metric have the same vertical axis, so that they can be compared.
    """
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for figure in FIGURES:
        shown = [row for row in rows if row.figure == figure.number]
        if shown:
            written += _draw(figure, shown, _limits(rows, figure.metric), directory)
    return written


def _limits(rows: Sequence[Row], metric: MeasuredQuantity) -> tuple[float, float]:
    of_metric = [row for row in rows if row.metric == metric.value]
    low = min(max(row.ci95_low_ms, row.mean_ms / 3) for row in of_metric)
    return 0.8 * low, 1.25 * max(min(row.ci95_high_ms, 3 * row.mean_ms) for row in of_metric)


def _draw(
    figure: PaperFigure, rows: Sequence[Row], limits: tuple[float, float], directory: Path
) -> list[Path]:
    panels = [name for name in figure.ciphers if any(row.cipher == name for row in rows)]
    with mpl.rc_context(_LOOKS):
        drawing = Drawing(figsize=(6.4 if len(panels) == 1 else 10.4, 4.4), layout="constrained")
        axes = drawing.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for axis, name in zip(axes, panels, strict=True):
            of_cipher = [row for row in rows if row.cipher == name]
            if figure.metric is MeasuredQuantity.JITTER:
                _panel_of_sizes(axis, of_cipher, limits[0])
                _axes_of_lengths(axis)
            else:
                _panel(axis, of_cipher, limits[0])
                _axes_of_sizes(axis)
            _axes(axis, limits)
            axis.set_title(f"{_TITLES[figure.metric]}, {CIPHERS[name].label}", loc="left")
        drawing.suptitle(f"Figure {figure.number}", x=0.01, ha="left", fontsize=9, color="#555555")
        axes[0].set_ylabel(_LABELS[figure.metric])
        of_sizes = figure.metric is MeasuredQuantity.JITTER
        title = "Packet size (bytes)" if of_sizes else "Nested tunnels"
        axes[0].legend(title=title, loc="upper left", ncols=3 if of_sizes else 2, fontsize=8)
        files = [directory / f"{figure.file_name}.{kind}" for kind in ("png", "svg")]
        drawing.savefig(files[0], dpi=160, metadata={"Software": None})
        drawing.savefig(files[1], metadata={"Date": None, "Creator": None})
    return files


def _bars(rows: Sequence[Row], lowest: float) -> tuple[list[float], list[float]]:
    """Return the lengths of each error bar downwards, at most to the axis, and upwards."""
    down = [max(min(row.half_width_ms, row.mean_ms - lowest), 0.0) for row in rows]
    return down, [row.half_width_ms for row in rows]


def _panel_of_sizes(axis: Axes, rows: Sequence[Row], lowest: float) -> None:
    for number, size in enumerate(sorted({row.size for row in rows})):
        curve = sorted((row for row in rows if row.size == size), key=lambda row: row.tunnels)
        axis.errorbar(
            [row.tunnels + 0.04 * (number - 3) for row in curve],
            [row.mean_ms for row in curve],
            yerr=_bars(curve, lowest),
            label=str(size),
            color=_COLOURS[number % len(_COLOURS)],
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=4.5,
            linewidth=1.4,
            elinewidth=1,
            capsize=2.5,
        )


def _panel(axis: Axes, rows: Sequence[Row], lowest: float) -> None:
    for tunnels in TUNNELS:
        curve = sorted((row for row in rows if row.tunnels == tunnels), key=lambda row: row.size)
        if not curve:
            continue
        axis.errorbar(
            [row.size * (1 + _SPREAD * (tunnels - 2)) for row in curve],
            [row.mean_ms for row in curve],
            yerr=_bars(curve, lowest),
            label="none" if tunnels == 0 else str(tunnels),
            color=_COLOURS[tunnels],
            marker=_MARKERS[tunnels],
            markersize=4.5,
            linewidth=1.4,
            linestyle="--" if tunnels == 0 else "-",
            elinewidth=1,
            capsize=2.5,
        )


def _axes_of_sizes(axis: Axes) -> None:
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_locator(FixedLocator(SIZES))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_xlabel("Packet size (bytes)")


def _axes_of_lengths(axis: Axes) -> None:
    axis.xaxis.set_major_locator(FixedLocator(TUNNELS))
    axis.set_xlabel("Nested tunnels (path length)")


def _axes(axis: Axes, limits: tuple[float, float]) -> None:
    axis.set_yscale("log")
    axis.set_ylim(*limits)
    ticks = [
        t for t in (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if limits[0] <= t <= limits[1]
    ]
    axis.yaxis.set_major_locator(FixedLocator(ticks))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.grid(visible=True, color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
