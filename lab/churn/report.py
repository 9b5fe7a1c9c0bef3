"""Write the comparison as a page for people and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from lab.churn.comparison import ComparedQuantity
from lab.churn.measured import Measured
from lab.churn.script import ChurnScript

__all__ = ["MOST_LAG_S", "page", "write_report"]


MOST_LAG_S: Final = 0.5


def page(script: ChurnScript, figures: Sequence[ComparedQuantity], runs: int, lag_s: float) -> str:
    """Return the report in Markdown."""
    timing = script.timing
    lines = [
        "# Real against simulated",
        "",
        f"{script.nodes} nodes and a prober, each a process in a network namespace of its own; "
        f"{len(script.relays)} relays are killed after {timing.mean_session_s:g} s and "
        f"return after {timing.mean_absence_s:g} s (means, exponential). Measured: "
        f"{timing.duration_s:g} s after {timing.warm_up_s:g} s of warm-up. Simulated: the same "
        f"script (seed {script.seed}), {runs} runs. All intervals are of 95 %.",
        "",
        "| figure | real | simulated | difference | agree |",
        "|---|---|---|---|---|",
        *(_row(figure) for figure in figures),
        "",
        _verdict(figures),
        f"The play's actions came up to {lag_s:.2f} s late (95 % of them); with more than "
        f"{MOST_LAG_S:g} s the host was too busy for a fair comparison.",
        "",
    ]
    return "\n".join(lines)


def write_report(
    directory: Path,
    script: ChurnScript,
    real: Measured,
    simulated: Sequence[Measured],
    figures: Sequence[ComparedQuantity],
) -> None:
    """Write ``report.md`` and ``report.json``."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "report.md").write_text(
        page(script, figures, len(simulated), real.lag_s), encoding="utf-8"
    )
    plain = {
        "script": {"seed": script.seed, "nodes": script.nodes, "timing": asdict(script.timing)},
        "figures": [
            asdict(figure) | {"difference": figure.difference, "agrees": figure.agrees}
            for figure in figures
        ],
        "agree": all(figure.agrees for figure in figures),
        "real": real.plain(),
        "simulated": [one.plain() for one in simulated],
    }
    text = json.dumps(plain, indent=2, allow_nan=False)
    (directory / "report.json").write_text(text + "\n", encoding="utf-8")


def _row(figure: ComparedQuantity) -> str:
    real = f"{figure.real:.4g} ± {figure.real_half:.2g}"
    simulated = f"{figure.simulated:.4g} ± {figure.simulated_half:.2g}"
    difference = f"{figure.difference:+.3g} ± {figure.half:.2g}"
    return (
        f"| {figure.name} | {real} | {simulated} | {difference} | "
        f"{'yes' if figure.agrees else '**no**'} |"
    )


def _verdict(figures: Sequence[ComparedQuantity]) -> str:
    apart = [figure.name for figure in figures if not figure.agrees]
    if not apart:
        return "Verdict: they agree in every figure."
    return f"Verdict: they differ in {', '.join(apart)}."
