"""Write the studies of several results directories as one page of Markdown.

    python3 -m sims.studies.reports.markdown DIRECTORY...

``make scenarios`` writes docs/results/scenarios.md with it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from overlay.errors import ConfigurationError
from sims.scenario.scenario import Scenario
from sims.studies.reports.numbers import duration, interval, number
from sims.studies.results.expectation_result import ExpectationResult
from sims.studies.results.reading import read_results
from sims.studies.results.statistics import Estimate, t_estimate
from sims.studies.results.summary import PointSummary, summarise

__all__ = ["main", "page"]

_COLUMNS: Final = (
    ("lookups found it", "lookup_success", ""),
    ("median latency (s)", "lookup_latency_s", "median"),
    ("hops", "lookup_hops", ""),
    ("dead in tables", "table_stale_share", ""),
    ("datagrams per node and s", "messages_per_node_s", ""),
    ("bytes per node and s", "bytes_per_node_s", ""),
)
"""Columns for every study: heading, metric, quantile (the mean if empty)."""


def page(studies: Sequence[PointSummary]) -> str:
    """Return one page: a table of all studies, then the expectations of each study."""
    lines = [
        "# Results of the shipped scenarios",
        "",
        *_preface(),
        "",
        *_side_by_side(studies),
    ]
    for study in studies:
        lines += ["", *_section(study)]
    return "\n".join(lines) + "\n"


def _preface() -> Iterator[str]:
    yield "Written by `make scenarios`. In brackets: 95 % confidence intervals over seeds; every"
    yield "measure is in each report (`overlay sim churn NAME`). What is simulated and what is not:"
    yield "[simulator.md](../simulator.md)."


def _side_by_side(studies: Iterable[PointSummary]) -> Iterator[str]:
    yield "| scenario | nodes on-line | " + " | ".join(name for name, _, _ in _COLUMNS) + " |"
    yield "|---" * (2 + len(_COLUMNS)) + "|"
    for study in studies:
        cells = [_with_interval(_estimate(study, *column)) for _, *column in _COLUMNS]
        online = number(_estimate(study, "online_nodes").mean)
        yield f"| {study.point.scenario.name} | {online} | {' | '.join(cells)} |"


def _section(study: PointSummary) -> Iterator[str]:
    scenario = study.point.scenario
    yield f"## {scenario.name}"
    yield ""
    yield f"{scenario.question} {_size(scenario, len(study.runs))}"
    yield ""
    yield "| promise | measured | |"
    yield "|---|---|---|"
    for verdict in study.verdicts:
        said = "holds" if verdict.held else "**does not hold**"
        doubt = _doubt(verdict)
        yield f"| {verdict.expectation} | {_with_interval(verdict.got)} | {said}{doubt} |"


def _doubt(verdict: ExpectationResult) -> str:
    if not verdict.doubt:
        return ""
    return f": {verdict.doubt}" if verdict.unrecovered else f", but {verdict.doubt}"


def _size(scenario: Scenario, runs: int) -> str:
    nodes = f"{scenario.nodes:,} nodes (`{scenario.churn.model}`)"
    lasts = f"{duration(scenario.duration_s)} after {duration(scenario.warm_up_s)} of warm-up"
    return f"{nodes}, {lasts}, {runs} seeds."


def _estimate(study: PointSummary, metric: str, quantile: str = "") -> Estimate:
    found = {each.metric: each for each in study.metrics if not each.label}.get(metric)
    if found is None:
        return t_estimate(())
    return found.quantiles[quantile] if quantile else found.mean


def _with_interval(estimate: Estimate) -> str:
    ends = f" [{interval(estimate)}]" if math.isfinite(estimate.low) else ""
    return f"{number(estimate.mean)}{ends}"


def read_study(directory: Path) -> PointSummary:
    """Return the only point of a complete study.

    Raises:
        ConfigurationError: the study is incomplete or has several points.
    """
    results = read_results(directory)
    if not results.complete:
        raise ConfigurationError(f"{directory} is not complete; run it again.")
    if len(results.study.points) != 1:
        raise ConfigurationError(f"{directory} is a sweep; its report.html compares the points.")
    return summarise(results.study.points[0], results.runs)


def main(directories: Sequence[str]) -> int:
    """Print the page; return 1 and print a sentence if a directory cannot be used."""
    try:
        sys.stdout.write(page([read_study(Path(each)) for each in directories]))
    except ConfigurationError as error:
        sys.stderr.write(f"markdown: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
