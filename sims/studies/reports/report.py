"""Write ``report.html``: settings, verdicts, measurements and how to reproduce them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Final

from sims.metrics import metric_of
from sims.studies.reports import setup_tables
from sims.studies.reports.comparison import differences, important_first
from sims.studies.reports.figures import ReportFigure
from sims.studies.reports.numbers import duration, interval, number, with_unit
from sims.studies.reports.page import cell, page, section, table
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


def report_html(
    results: Results,
    points: Sequence[PointSummary],
    figures: Sequence[ReportFigure],
    remarks: Sequence[str],
) -> str:
    """Return the report as one self-contained HTML file."""
    base = results.study.base
    sections = [
        ("verdict", "What held and what not", _expectations(points)),
        ("comparison", "Points compared, same seeds with same seeds", _comparison(points)),
        ("setup", "Set-up", setup_tables.setup(results.study)),
        ("missing", "What is missing", _missing(results, remarks)),
        ("measured", "What was measured", _chapters(points, figures)),
        ("churn", "Churn: nominal and measured", _churn(points)),
        ("cost", "What the simulation cost", _cost(points)),
        ("limits", "Limits", setup_tables.limits(results.study)),
        ("again", "How to reproduce", setup_tables.reproduce(results)),
    ]
    present = [each for each in sections if each[2]]
    links = "".join(f'<li><a href="#{anchor}">{title}</a></li>' for anchor, title, _ in present)
    return page(
        f"{_title(base.name)}: simulation report",
        [
            "<header>",
            '<p class="kind">Simulation report</p>',
            f"<h1>{escape(_title(base.name))}</h1>",
            f'<p class="question">{escape(base.question)}</p>' if base.question else "",
            _banner(results, points),
            _cards(points),
            "</header>",
            f'<nav aria-label="Sections"><ul>{links}</ul></nav>',
            *(section(*each) for each in present),
            f'<footer class="soft">{escape(setup_tables.origin_line(results))}</footer>',
        ],
    )


def _title(name: str) -> str:
    words = name.replace("-", " ").replace("_", " ")
    return words[:1].upper() + words[1:]


def _banner(results: Results, points: Sequence[PointSummary]) -> str:
    verdicts = [verdict for point in points for verdict in point.verdicts]
    held = sum(verdict.held for verdict in verdicts)
    kind = "good" if held == len(verdicts) else "bad"
    if not verdicts:
        kind, said = "doubt", "<strong>No verdict.</strong> The scenario states no expectation."
    elif held == len(verdicts):
        said = f"<strong>Held.</strong> All {held} expectations were met."
    else:
        said = (
            f"<strong>Not held.</strong> {len(verdicts) - held} of {len(verdicts)} expectations "
            "were not met."
        )
    if not results.complete:
        kind = "doubt" if kind == "good" else kind
        said += f" <strong>Incomplete:</strong> {escape(state_sentence(results))}"
    return f'<p class="verdict {kind}" role="status">{said}</p>'


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


def _cards(points: Sequence[PointSummary]) -> str:
    if len(points) > 1:
        return ""
    found = {s.metric: s for s in points[0].metrics if not s.label}
    cards: list[str] = []
    for metric, statistic, words in _HEADLINES:
        summary = found.get(metric)
        if summary is not None and len(cards) < _MOST_HEADLINES:
            estimate = summary.mean if statistic == "mean" else summary.quantiles[statistic]
            ends = f"95 % CI {_headline_interval(estimate, metric)}"
            ends = ends if estimate.n > 1 else "one seed"
            value = _headline(estimate.mean, metric)
            cards.append(f"<li><b>{value}</b><span>{words}</span><span>{ends}</span></li>")
    return f'<ul class="cards">{"".join(cards)}</ul>' if cards else ""


def _headline(value: float, metric: str) -> str:
    described = metric_of(metric)
    if described.unit or not 0 <= value <= 1:
        return escape(with_unit(value, described.unit).replace(" 1/", " / "))
    percent = 100 * value
    return f"{percent:.2f} %" if 99 < percent < 100 or 0 < percent < 1 else f"{percent:.1f} %"


def _headline_interval(estimate: Estimate, metric: str) -> str:
    """Return the interval in the unit of the headline, with fractions as percent."""
    described = metric_of(metric)
    if described.unit or not 0 <= estimate.mean <= 1 or not math.isfinite(estimate.low):
        return interval(estimate)
    return f"{100 * estimate.low:.2f} … {100 * estimate.high:.2f} %"


def _expectations(points: Sequence[PointSummary]) -> str:
    several = len(points) > 1
    rows = []
    for point in points:
        for verdict in point.verdicts:
            word, kind = ("held", "good") if verdict.held else ("not held", "bad")
            if not verdict.got.n:
                word, kind = "nothing measured", "bad"
            elif verdict.unrecovered:
                word = f"{word}: {verdict.doubt}"
            elif not verdict.certain and verdict.got.n > 1:
                word, kind = f"{word}, interval crosses the bound", "doubt"
            rows.append(
                [
                    *([cell(point.point.name)] if several else []),
                    f"<td><code>{escape(str(verdict.expectation))}</code></td>",
                    cell(number(verdict.got.mean), "number"),
                    cell(interval(verdict.got), "number"),
                    cell(str(verdict.got.n), "number"),
                    cell(word, kind),
                ]
            )
    if not rows:
        return "<p>The scenario states no expectation, so nothing could fail to hold.</p>"
    head = [*(["point"] if several else []), "expected", "got#", "95 % CI#", "seeds#", "verdict"]
    return table("Each expectation is a bound on the mean over the seeds.", head, rows)


def _missing(results: Results, remarks: Sequence[str]) -> str:
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
    return "<ul>" + "".join(f"<li>{escape(each)}</li>" for each in said) + "</ul>" if said else ""


def _chapters(points: Sequence[PointSummary], figures: Sequence[ReportFigure]) -> str:
    there = {metric_of(s.metric).group for p in points for s in p.metrics}
    groups = [group for group in important_first(points) if group in there]
    parts = []
    for group in groups:
        parts.append(f"<h3>{escape(group)}</h3>")
        parts += [
            f"<figure>{figure.svg}<figcaption>{escape(figure.caption)}</figcaption></figure>"
            for figure in figures
            if figure.group == group
        ]
        parts.append(_metrics_table(points, group))
    return "\n".join(parts) if parts else "<p>Nothing was measured.</p>"


def _comparison(points: Sequence[PointSummary]) -> str:
    """Compare every point with the first one, seed by seed, expected metrics first."""
    if len(points) < 2:
        return ""
    rows = [
        [
            cell(difference.point),
            cell(difference.metric),
            cell(number(difference.estimate.mean), "number"),
            cell(interval(difference.estimate), "number"),
            cell(str(difference.estimate.n), "number"),
            cell(difference.words, "" if difference.shown else "doubt"),
        ]
        for group in important_first(points)
        for difference in differences(points)
        if metric_of(difference.metric).group == group
    ]
    if not rows:
        return ""
    head = ["point", "metric", "difference#", "95 % CI#", "seeds#", "what it shows"]
    note = (
        f'<p class="soft">Each row is the mean over the seeds of this point less '
        f"{escape(points[0].point.name)}, both with the same seed. Of twenty rows without any "
        "difference, one shows one by chance.</p>"
    )
    return table(f"Differences from {points[0].point.name}", head, rows) + note


def _metrics_table(points: Sequence[PointSummary], group: str) -> str:
    several = len(points) > 1
    rows = [
        [*([cell(point.point.name)] if several else []), *_metric_row(summary)]
        for point in points
        for summary in point.metrics
        if metric_of(summary.metric).group == group
    ]
    head = ["metric", "mean#", "95 % CI#", "sd over seeds#", "median#", "p95#", "seeds#", "n#"]
    return table(
        f"{group}: statistics of each seed, averaged over the seeds",
        [*(["point"] if several else []), *head],
        rows,
    )


def _metric_row(summary: MetricSummary) -> list[str]:
    described = metric_of(summary.metric)
    name = f"{summary.metric} [{summary.label}]" if summary.label else summary.metric
    shown = f"{name}, {described.unit}" if described.unit else name
    yes_no = described.kind == "yes-no"
    quantiles = [math.nan if yes_no else summary.quantiles[q].mean for q in ("median", "p95")]
    return [
        f'<td title="{escape(described.meaning)}">{escape(shown)}</td>',
        cell(number(summary.mean.mean), "number"),
        cell(interval(summary.mean), "number"),
        cell(number(summary.mean.sd), "number"),
        *(cell(number(value), "number") for value in quantiles),
        cell(str(summary.mean.n), "number"),
        cell(f"{summary.observations:,}", "number"),
    ]


def _churn(points: Sequence[PointSummary]) -> str:
    several = len(points) > 1
    rows = [
        [
            *([cell(point.point.name)] if several else []),
            cell(f"{quantity}, {unit}" if unit else quantity),
            cell(number(nominal), "number"),
            cell(number(measured.mean), "number"),
            cell(interval(measured), "number"),
        ]
        for point in points
        for quantity, unit, nominal, measured in point.churn
    ]
    if not rows:
        return ""
    note = (
        '<p class="soft">Sessions that outlast the run are cut off, so the means of those '
        "that begin and end within it lie below the nominal ones. The median by Kaplan and Meier "
        "(1958) counts the cut sessions as well; joins, leaves and the share "
        "on-line do not suffer from that. The nominal values speak of ordinary churn alone, "
        "without what happens to many nodes at once.</p>"
    )
    head = [*(["point"] if several else []), "quantity", "nominal#", "measured#", "95 % CI#"]
    return table("The session model against what came of it", head, rows) + note


def _cost(points: Sequence[PointSummary]) -> str:
    names = {
        "datagrams_per_wall_s": "simulated datagrams in a second of wall time, for one run",
        "simulated_per_wall": "simulated over wall time",
        "peak_rss_mb": "largest resident set of a run, MB",
        "wall_s": "wall time of a run, s",
    }
    several = len(points) > 1
    rows = [
        [
            *([cell(point.point.name)] if several else []),
            cell(names[name]),
            cell(number(estimate.mean), "number"),
            cell(interval(estimate), "number"),
        ]
        for point in points
        for name, estimate in point.performance().items()
        if estimate.n
    ]
    if not rows:
        return ""
    head = [*(["point"] if several else []), "quantity", "mean#", "95 % CI#"]
    return table("Depends on the machine; nothing else in this report does", head, rows)
