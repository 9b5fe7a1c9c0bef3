"""Write ``report.html``: settings, verdicts, measurements and how to reproduce them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from sims.metrics import metric_of
from sims.studies.reports import setup_tables
from sims.studies.reports.comparison import differences, important_first
from sims.studies.reports.figures import ReportFigure
from sims.studies.reports.numbers import duration, interval, number, with_unit
from sims.studies.reports.page import ReportCell, ReportSection, ReportTable, numeric, render, table
from sims.studies.results.expectation_result import ExpectationResult
from sims.studies.results.reading import Results
from sims.studies.results.statistics import Estimate
from sims.studies.results.summary import MetricSummary, PointSummary

__all__ = ["report_html", "state_sentence"]

_HEADLINES: Final = (
    ("lookup_success", "mean", "of lookups found what was published"),
    ("path_success", "mean", "of requests for a path succeeded"),
    ("path_available", "mean", "of clients had a working circuit"),
    ("lookup_latency_s", "median", "median lookup"),
    ("mtt_coverage", "mean", "of live relays known to a client"),
    ("messages_per_node_s", "mean", "control datagrams a node sends"),
    ("record_survival", "mean", "of records kept a live holder"),
    ("table_stale_share", "mean", "of routing-table contacts were dead"),
)
_MOST_HEADLINES: Final = 4
_COSTS: Final = {
    "datagrams_per_wall_s": "simulated datagrams per second of wall time, in one run",
    "simulated_per_wall": "simulated time divided by wall time",
    "peak_rss_mb": "largest resident set size of a run, MB",
    "wall_s": "wall time of a run, s",
}


@dataclass(frozen=True, slots=True)
class _Banner:
    """The verdict at the top of the page; ``incomplete`` is a sentence or empty."""

    kind: str
    held: int
    expectations: int
    incomplete: str


@dataclass(frozen=True, slots=True)
class _Card:
    """One headline figure: a value, what it is, and its interval."""

    value: str
    words: str
    interval: str


@dataclass(frozen=True, slots=True)
class _Chapter:
    """One group of metrics, with figures and a table."""

    title: str
    figures: Sequence[ReportFigure]
    table: ReportTable


def report_html(
    results: Results,
    points: Sequence[PointSummary],
    figures: Sequence[ReportFigure],
    remarks: Sequence[str],
) -> str:
    """Return the report as one self-contained HTML file."""
    base = results.study.base
    words = base.name.replace("-", " ").replace("_", " ")
    context = {
        "title": words[:1].upper() + words[1:],
        "question": base.question,
        "banner": _banner(results, points),
        "cards": _cards(points),
        "sections": list(_sections(results, points, figures, remarks)),
        "origin": setup_tables.origin_line(results),
    }
    return render("report.html", context)


def _sections(
    results: Results,
    points: Sequence[PointSummary],
    figures: Sequence[ReportFigure],
    remarks: Sequence[str],
) -> Iterator[ReportSection]:
    expectations = _expectations(points)
    template = "table.html" if isinstance(expectations, ReportTable) else "sentence.html"
    yield ReportSection("verdict", "Expectations and results", template, expectations)
    if compared := _comparison(points):
        title = "Comparison of points with equal seeds"
        yield ReportSection("comparison", title, "table.html", compared)
    yield ReportSection("setup", "Set-up", "setup.html", setup_tables.setup(results.study))
    if missing := _missing(results, remarks):
        yield ReportSection("missing", "What is missing", "list.html", missing)
    if chapters := _chapters(points, figures):
        yield ReportSection("measured", "What was measured", "measured.html", chapters)
    else:
        yield ReportSection(
            "measured", "What was measured", "sentence.html", "Nothing was measured."
        )
    if churn := _churn(points):
        yield ReportSection("churn", "Churn, nominal and measured", "table.html", churn)
    if cost := _cost(points):
        yield ReportSection("cost", "What the simulation cost", "table.html", cost)
    yield ReportSection("limits", "Limits", "list.html", setup_tables.limits(results.study))
    yield ReportSection(
        "again", "How to reproduce", "reproduce.html", setup_tables.reproduce(results)
    )


def _banner(results: Results, points: Sequence[PointSummary]) -> _Banner:
    verdicts = [verdict for point in points for verdict in point.verdicts]
    held = sum(verdict.held for verdict in verdicts)
    kind = "good" if held == len(verdicts) else "bad"
    if not verdicts or (kind == "good" and not results.complete):
        kind = "doubt"
    incomplete = "" if results.complete else state_sentence(results)
    return _Banner(kind, held, len(verdicts), incomplete)


def state_sentence(results: Results) -> str:
    """Return why runs are missing or ended early, and how many are complete."""
    whole = sum(run.complete for run in results.runs)
    failed = len(results.failures)
    how = {
        "running": "the program was ended before it could finish, or still runs",
        "interrupted": "the study was interrupted",
        "failed": "the study failed",
    }.get(results.state, f"{failed} {'run' if failed == 1 else 'runs'} failed")
    return f"{how}; {whole} of {results.study.runs} runs went to their end."


def _cards(points: Sequence[PointSummary]) -> list[_Card]:
    if len(points) > 1:
        return []
    found = {s.metric: s for s in points[0].metrics if not s.label}
    present = [each for each in _HEADLINES if each[0] in found]
    return [
        _card(found[metric], statistic, words)
        for metric, statistic, words in present[:_MOST_HEADLINES]
    ]


def _card(summary: MetricSummary, statistic: str, words: str) -> _Card:
    estimate = summary.mean if statistic == "mean" else summary.quantiles[statistic]
    ends = f"95 % CI {_headline_interval(estimate, summary.metric)}"
    value = _headline(estimate.mean, summary.metric)
    return _Card(value, words, ends if estimate.n > 1 else "one seed")


def _headline(value: float, metric: str) -> str:
    described = metric_of(metric)
    if described.unit or not 0 <= value <= 1:
        return with_unit(value, described.unit).replace(" 1/", " / ")
    percent = 100 * value
    return f"{percent:.2f} %" if 99 < percent < 100 or 0 < percent < 1 else f"{percent:.1f} %"


def _headline_interval(estimate: Estimate, metric: str) -> str:
    """Return the interval in the unit of the headline, with fractions as percent."""
    described = metric_of(metric)
    if described.unit or not 0 <= estimate.mean <= 1 or not math.isfinite(estimate.low):
        return interval(estimate)
    return f"{100 * estimate.low:.2f} … {100 * estimate.high:.2f} %"


def _expectations(points: Sequence[PointSummary]) -> ReportTable | str:
    rows = [
        [
            *_point_cell(points, point),
            ReportCell(str(verdict.expectation), code=True),
            numeric(number(verdict.got.mean)),
            numeric(interval(verdict.got)),
            numeric(str(verdict.got.n)),
            _verdict_cell(verdict),
        ]
        for point in points
        for verdict in point.verdicts
    ]
    if not rows:
        return "The scenario states no expectation."
    head = [*_point_head(points), "expected", "got#", "95 % CI#", "seeds#", "verdict"]
    return table("Each expectation is a bound on the mean over the seeds.", head, rows)


def _verdict_cell(verdict: ExpectationResult) -> ReportCell:
    word, kind = ("held", "good") if verdict.held else ("not held", "bad")
    if not verdict.got.n:
        return ReportCell("nothing measured", "bad")
    if verdict.unrecovered:
        return ReportCell(f"{word}: {verdict.doubt}", kind)
    if not verdict.certain and verdict.got.n > 1:
        return ReportCell(f"{word}, interval crosses the bound", "doubt")
    return ReportCell(word, kind)


def _point_head(points: Sequence[PointSummary]) -> list[str]:
    """Return the heading of the column that names points, if there are several."""
    return ["point"] if len(points) > 1 else []


def _point_cell(points: Sequence[PointSummary], point: PointSummary) -> list[ReportCell]:
    return [ReportCell(point.point.name)] if len(points) > 1 else []


def _missing(results: Results, remarks: Sequence[str]) -> list[str]:
    said = [*remarks, *results.notes]
    said += [
        f"{results.study.points[f.point].name}, seed {f.seed}: {f.sentence}"
        for f in results.failures
        if f.point < len(results.study.points)
    ]
    said += [
        f"{results.study.points[run.point].name}, seed {run.seed}, ended early, after "
        f"{duration(run.simulated_s)} of simulated time; what it measured is included."
        for run in results.runs
        if not run.complete
    ]
    if not results.complete and not said:
        said.append(state_sentence(results))
    return said


def _chapters(points: Sequence[PointSummary], figures: Sequence[ReportFigure]) -> list[_Chapter]:
    there = {metric_of(s.metric).group for p in points for s in p.metrics}
    return [
        _Chapter(
            group, [each for each in figures if each.group == group], _metrics_table(points, group)
        )
        for group in important_first(points)
        if group in there
    ]


def _comparison(points: Sequence[PointSummary]) -> ReportTable | None:
    """Compare every point with the first one, seed by seed, expected metrics first."""
    if len(points) < 2:
        return None
    rows = [
        [
            ReportCell(difference.point),
            ReportCell(difference.metric),
            numeric(number(difference.estimate.mean)),
            numeric(interval(difference.estimate)),
            numeric(str(difference.estimate.n)),
            ReportCell(difference.words, "" if difference.shown else "doubt"),
        ]
        for group in important_first(points)
        for difference in differences(points)
        if metric_of(difference.metric).group == group
    ]
    head = ["point", "metric", "difference#", "95 % CI#", "seeds#", "what it shows"]
    first = points[0].point.name
    note = (
        f"Each row is a mean over the seeds: the value at this point minus the value at {first} "
        "with the same seed. If no point differs, one row in twenty shows a difference by chance."
    )
    return table(f"Differences from {first}", head, rows, note) if rows else None


def _metrics_table(points: Sequence[PointSummary], group: str) -> ReportTable:
    rows = [
        [*_point_cell(points, point), *_metric_row(summary)]
        for point in points
        for summary in point.metrics
        if metric_of(summary.metric).group == group
    ]
    head = ["metric", "mean#", "95 % CI#", "sd over seeds#", "median#", "p95#", "seeds#", "n#"]
    caption = f"{group}: statistics of each seed, averaged over the seeds"
    return table(caption, [*_point_head(points), *head], rows)


def _metric_row(summary: MetricSummary) -> list[ReportCell]:
    described = metric_of(summary.metric)
    name = f"{summary.metric} [{summary.label}]" if summary.label else summary.metric
    shown = f"{name}, {described.unit}" if described.unit else name
    yes_no = described.kind == "yes-no"
    quantiles = [math.nan if yes_no else summary.quantiles[q].mean for q in ("median", "p95")]
    return [
        ReportCell(shown, title=described.meaning),
        numeric(number(summary.mean.mean)),
        numeric(interval(summary.mean)),
        numeric(number(summary.mean.sd)),
        *(numeric(number(value)) for value in quantiles),
        numeric(str(summary.mean.n)),
        numeric(f"{summary.observations:,}"),
    ]


def _churn(points: Sequence[PointSummary]) -> ReportTable | None:
    rows = [
        [
            *_point_cell(points, point),
            ReportCell(f"{quantity}, {unit}" if unit else quantity),
            numeric(number(nominal)),
            numeric(number(measured.mean)),
            numeric(interval(measured)),
        ]
        for point in points
        for quantity, unit, nominal, measured in point.churn
    ]
    note = (
        "Sessions that outlast the run are cut off. So the means of sessions that begin and end "
        "within the run are below the nominal means. The median by Kaplan and Meier (1958) "
        "includes the cut sessions. Joins, leaves and the share of on-line nodes do not depend "
        "on the length of the run. The nominal values describe ordinary churn, without events "
        "that concern many nodes at once."
    )
    head = [*_point_head(points), "quantity", "nominal#", "measured#", "95 % CI#"]
    caption = "Nominal values of the session model, and measured values"
    return table(caption, head, rows, note) if rows else None


def _cost(points: Sequence[PointSummary]) -> ReportTable | None:
    rows = [
        [
            *_point_cell(points, point),
            ReportCell(_COSTS[name]),
            numeric(number(estimate.mean)),
            numeric(interval(estimate)),
        ]
        for point in points
        for name, estimate in point.performance().items()
        if estimate.n
    ]
    head = [*_point_head(points), "quantity", "mean#", "95 % CI#"]
    caption = "These values depend on the machine. No other value in this report does."
    return table(caption, head, rows) if rows else None
