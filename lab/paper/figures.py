"""The figures: delay in ms over packet size in bytes, one curve for each number of tunnels.

Both axes count in powers, as the sizes do: on a linear axis five of the paper's seven sizes
would share its first quarter.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from lab.paper.cells import CIPHERS, FIGURES, SIZES, TUNNELS, Figure, Metric
from lab.paper.summary import Row

__all__ = ["draw_all"]

_COLOURS: Final = ("#000000", "#0072B2", "#009E73", "#D55E00", "#CC79A7")
"""Okabe and Ito's palette, made for all kinds of colour vision; shapes tell the same."""

_MARKERS: Final = ("o", "s", "^", "D", "v")
_LABELS: Final = {Metric.RTT: "Round-trip time (ms)", Metric.JITTER: "Jitter, RFC 3550 (ms)"}
_TITLES: Final = {Metric.RTT: "ICMP round-trip time", Metric.JITTER: "UDP jitter"}
_SPREAD: Final = 0.012
"""How far, as a part of the size, curves are moved apart so that no error bar hides another."""

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

    Figures of one metric share their vertical axis, so that they can be laid side by side.
    """
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for figure in FIGURES:
        shown = [row for row in rows if row.figure == figure.number]
        if shown:
            written += _draw(figure, shown, _limits(rows, figure.metric), directory)
    return written


def _limits(rows: Sequence[Row], metric: Metric) -> tuple[float, float]:
    of_metric = [row for row in rows if row.metric == metric.value]
    low = min(max(row.ci95_low_ms, row.mean_ms / 3) for row in of_metric)
    return 0.8 * low, 1.25 * max(min(row.ci95_high_ms, 3 * row.mean_ms) for row in of_metric)


def _draw(
    figure: Figure, rows: Sequence[Row], limits: tuple[float, float], directory: Path
) -> list[Path]:
    panels = [name for name in figure.ciphers if any(row.cipher == name for row in rows)]
    with mpl.rc_context(_LOOKS):
        drawing = Drawing(figsize=(6.4 if len(panels) == 1 else 10.4, 4.4), layout="constrained")
        axes = drawing.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for axis, name in zip(axes, panels, strict=True):
            _panel(axis, [row for row in rows if row.cipher == name])
            _axes(axis, limits)
            axis.set_title(f"{_TITLES[figure.metric]}, {CIPHERS[name].label}", loc="left")
        drawing.suptitle(f"Figure {figure.number}", x=0.01, ha="left", fontsize=9, color="#555555")
        axes[0].set_ylabel(_LABELS[figure.metric])
        axes[0].legend(title="Nested tunnels", loc="upper left", ncols=2)
        files = [directory / f"{figure.file_name}.{kind}" for kind in ("png", "svg")]
        drawing.savefig(files[0], dpi=160, metadata={"Software": None})
        drawing.savefig(files[1], metadata={"Date": None, "Creator": None})
    return files


def _panel(axis: Axes, rows: Sequence[Row]) -> None:
    for tunnels in TUNNELS:
        curve = sorted((row for row in rows if row.tunnels == tunnels), key=lambda row: row.size)
        if not curve:
            continue
        axis.errorbar(
            [row.size * (1 + _SPREAD * (tunnels - 2)) for row in curve],
            [row.mean_ms for row in curve],
            yerr=[row.half_width_ms for row in curve],
            label="none" if tunnels == 0 else str(tunnels),
            color=_COLOURS[tunnels],
            marker=_MARKERS[tunnels],
            markersize=4.5,
            linewidth=1.4,
            linestyle="--" if tunnels == 0 else "-",
            elinewidth=1,
            capsize=2.5,
        )


def _axes(axis: Axes, limits: tuple[float, float]) -> None:
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_ylim(*limits)
    axis.xaxis.set_major_locator(FixedLocator(SIZES))
    axis.xaxis.set_minor_locator(NullLocator())
    ticks = [
        t for t in (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if limits[0] <= t <= limits[1]
    ]
    axis.yaxis.set_major_locator(FixedLocator(ticks))
    axis.yaxis.set_minor_locator(NullLocator())
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    axis.xaxis.set_major_formatter(plain)
    axis.yaxis.set_major_formatter(plain)
    axis.grid(visible=True, color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.set_xlabel("Packet size (bytes)")
