"""Write ``summary.json``: statistics of every metric over the seeds, verdicts, churn, speed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from overlay.errors import ConfigurationError
from sims.metrics import METRICS, metric_of, needs_adversary
from sims.scenario.scenario import Scenario
from sims.scenario.study import StudyPoint
from sims.studies.results.condensed import Condensed, Key
from sims.studies.results.expectation_result import ExpectationResult, verdicts
from sims.studies.results.record import RunRecord
from sims.studies.results.statistics import Estimate, bootstrap_estimate, share_estimate, t_estimate
from sims.world.churn.lifetimes import Lifetimes

__all__ = ["MetricSummary", "PointSummary", "summarise"]

_QUANTILES: Final = {"p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p90": 0.9, "p95": 0.95,
                     "p99": 0.99}  # fmt: skip


@dataclass(frozen=True, slots=True)
class MetricSummary:
    """One metric and label over the seeds of one point.

    Attributes:
        metric, label: what was measured.
        observations: number of values of all seeds after the warm-up.
        mean: estimate of the seeds' means.
        quantiles: by name (``median``, ``p95``), estimates of the seeds' quantiles.
    """

    metric: str
    label: str
    observations: int
    mean: Estimate
    quantiles: Mapping[str, Estimate]

    def plain(self) -> dict[str, object]:
        """Return the statistics as JSON's own types."""
        described = metric_of(self.metric)
        plain: dict[str, object] = {
            "metric": self.metric,
            "label": self.label,
            "unit": described.unit,
            "kind": described.kind,
            "meaning": described.meaning,
            "observations": self.observations,
            **self.mean.plain(),
        }
        if described.kind != "yes-no":
            plain["quantiles"] = {name: q.plain() for name, q in self.quantiles.items()}
        return plain


@dataclass(frozen=True, slots=True)
class PointSummary:
    """One point of a study and all statistics about it.

    Attributes:
        point: name and scenario.
        runs: condensed runs, in the order of the seeds.
        metrics: in the order of the catalogue.
        verdicts: in the order of the scenario's expectations.
        churn: rows (quantity, unit, nominal, measured).
    """

    point: StudyPoint
    runs: tuple[RunRecord, ...]
    metrics: tuple[MetricSummary, ...]
    verdicts: tuple[ExpectationResult, ...]
    churn: tuple[tuple[str, str, float, Estimate], ...]

    def performance(self) -> dict[str, Estimate]:
        """Return the cost of the runs: datagrams per second, speed, memory, time."""
        return {
            "datagrams_per_wall_s": t_estimate([run.datagrams_per_s for run in self.runs]),
            "simulated_per_wall": t_estimate([run.speed for run in self.runs]),
            "peak_rss_mb": t_estimate([run.peak_rss_bytes / 1e6 for run in self.runs]),
            "wall_s": t_estimate([run.wall_s for run in self.runs]),
        }

    def plain(self) -> dict[str, object]:
        """Return the summary as JSON's own types."""
        return {
            "point": self.point.name,
            "seeds": [run.seed for run in self.runs],
            "incomplete_seeds": [run.seed for run in self.runs if not run.complete],
            "verdicts": [verdict.plain() for verdict in self.verdicts],
            "metrics": [metric.plain() for metric in self.metrics],
            "churn": [
                {
                    "quantity": quantity,
                    "unit": unit,
                    "nominal": nominal if math.isfinite(nominal) else None,
                    "measured": measured.plain(),
                }
                for quantity, unit, nominal, measured in self.churn
            ],
            "performance": {name: e.plain() for name, e in self.performance().items()},
        }


def summarise(point: StudyPoint, runs: Sequence[RunRecord]) -> PointSummary:
    """Compute the statistics of one point of a study."""
    ordered = tuple(sorted(runs, key=lambda run: run.seed))
    adversary = point.scenario.adversary.is_there
    keys = {key for key in _keys(ordered) if adversary or not needs_adversary(key[0])}
    metrics = tuple(_metric(key, ordered) for key in sorted(keys, key=_place))
    return PointSummary(
        point,
        ordered,
        metrics,
        tuple(verdicts(point.scenario.expectations, ordered)),
        tuple(_churn(point.scenario, ordered)),
    )


def _keys(runs: Sequence[RunRecord]) -> set[Key]:
    return {key for run in runs for key, condensed in run.values.items() if condensed.count}


def _place(key: Key) -> tuple[int, str, int, str]:
    """Return a sort key: position in the catalogue, then label, with numbers by value."""
    names = list(METRICS)
    known = names.index(key[0]) if key[0] in METRICS else len(names)
    digits = "".join(character for character in key[1] if character.isdigit())[:9]
    return known, key[0], int(digits or 0), key[1]


def _metric(key: Key, runs: Sequence[RunRecord]) -> MetricSummary:
    found = [run.values[key] for run in runs if key in run.values]
    described = metric_of(key[0])
    means = [each.mean for each in found]
    if described.highest == 1:
        mean = share_estimate(means, [each.count for each in found])
    else:
        mean = t_estimate(means)
    return MetricSummary(
        *key,
        sum(each.count for each in found),
        mean.possible(described.highest),
        {
            name: bootstrap_estimate([each.quantile(share) for each in found])
            for name, share in _QUANTILES.items()
        },
    )


def _churn(scenario: Scenario, runs: Sequence[RunRecord]) -> list[tuple[str, str, float, Estimate]]:
    """Return the nominal and the measured values of churn."""
    nominal = _nominal(scenario)
    rows: tuple[tuple[str, str, str, Callable[[Condensed], float]], ...] = (
        ("share of nodes on-line", "", "online_share", lambda c: c.mean),
        ("joins", "1/h", "joins_per_hour", lambda c: c.mean),
        ("leaves", "1/h", "leaves_per_hour", lambda c: c.mean),
        ("mean session (those within the run)", "s", "session_on_s", lambda c: c.mean),
        ("median session (Kaplan-Meier)", "s", "session_km_s", lambda c: c.quantile(0.5)),
        ("mean absence (those within the run)", "s", "session_off_s", lambda c: c.mean),
    )
    return [
        (quantity, unit, nominal.get(metric, math.nan), _over_seeds(runs, metric, of))
        for quantity, unit, metric, of in rows
        if _each(runs, metric, of)
    ]


def _over_seeds(
    runs: Sequence[RunRecord], metric: str, of: Callable[[Condensed], float]
) -> Estimate:
    return t_estimate(_each(runs, metric, of)).possible(metric_of(metric).highest)


def _each(runs: Sequence[RunRecord], metric: str, of: Callable[[Condensed], float]) -> list[float]:
    return [of(run.values[metric, ""]) for run in runs if (metric, "") in run.values]


def _nominal(scenario: Scenario) -> dict[str, float]:
    """Return the nominal values of the session model; empty if its trace is gone."""
    from sims.world.churn import parse_model

    try:
        model = parse_model(scenario.churn.model)
    except ConfigurationError:
        return {}
    away_s = model.off.mean() if model.off is not None else 0.0
    moving = 1 - model.permanent_share
    per_hour = scenario.nodes * moving * 3600 / (model.on.mean() + away_s)
    return {
        "online_share": model.availability(),
        "joins_per_hour": per_hour,
        "leaves_per_hour": per_hour,
        "session_on_s": model.on.mean(),
        "session_km_s": _median_s(model.on),
        **({"session_off_s": away_s} if model.off is not None else {}),
    }


def _median_s(lengths: Lifetimes) -> float:
    """Return the median length of new sessions, by bisection."""
    low, high = 0.0, max(lengths.mean(), 1.0)
    while lengths.survival(high) > 0.5:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if lengths.survival(middle) > 0.5 else (low, middle)
    return high
