"""Compare the expectations of a scenario with the measured values and their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sims.metrics import metric_of
from sims.scenario.expectation import Expectation
from sims.studies.results.record import RunRecord
from sims.studies.results.statistics import Estimate, bootstrap_estimate, share_estimate, t_estimate

__all__ = ["ExpectationResult", "verdicts"]

_UNBOUNDED: Final = ("sd", "count", "sum")
"""Statistics that may be larger than any single value."""

_UPPER: Final = ("<=", "<", "==")
"""Comparisons that do not hold if the true value is only known to be larger than measured."""


@dataclass(frozen=True, slots=True)
class ExpectationResult:
    """One expectation and what was measured.

    Attributes:
        expectation: the bound.
        got: the statistic over the seeds.
        held: whether its mean meets the bound.
        certain: whether the whole confidence interval is on the same side of the bound.
        runs: number of runs.
        unrecovered: in how many of them the overlay did not recover before the end. Their
            ``recovery_s`` is the time until then, which meets no upper bound, however short.
    """

    expectation: Expectation
    got: Estimate
    held: bool
    certain: bool
    runs: int = 0
    unrecovered: int = 0

    def sentence(self) -> str:
        """The result as text: expected value, measured value, interval, number of seeds."""
        word = "held    " if self.held else "NOT HELD"
        if self.got.n == 0:
            return f"{word}  expected {self.expectation}; nothing was measured"
        interval = (
            f" [{self.got.low:.4g}, {self.got.high:.4g}]" if math.isfinite(self.got.low) else ""
        )
        seeds = "seed" if self.got.n == 1 else "seeds"
        return (
            f"{word}  expected {self.expectation}; got {self.got.mean:.4g}{interval}, "
            f"{self.got.n} {seeds}{f'; {self.doubt}' if self.doubt else ''}"
        )

    @property
    def doubt(self) -> str:
        """A clause that qualifies the numbers; empty if they need none."""
        if self.unrecovered:
            runs = "run" if self.runs == 1 else "runs"
            return f"{self.unrecovered} of {self.runs} {runs} did not recover before the end"
        return "" if self.certain else "the interval reaches across the bound"

    def plain(self) -> dict[str, object]:
        """Return the verdict as JSON's own types."""
        plain: dict[str, object] = {
            "expected": str(self.expectation),
            "got": self.got.plain(),
            "held": self.held,
            "certain": self.certain,
        }
        return {**plain, "unrecovered": self.unrecovered} if self.unrecovered else plain


def verdicts(expected: Sequence[Expectation], runs: Sequence[RunRecord]) -> list[ExpectationResult]:
    """Compare the runs of one point with the expectations of its scenario."""
    return [_verdict(each, runs) for each in expected]


def _verdict(expected: Expectation, runs: Sequence[RunRecord]) -> ExpectationResult:
    key = (expected.metric, expected.label)
    values = [run.values[key].statistic(expected) for run in runs if key in run.values]
    estimate = bootstrap_estimate if expected.quantile is not None else t_estimate
    got = estimate(values)
    described = metric_of(expected.metric)
    if described.highest == 1 and expected.statistic == "mean":
        counts = [run.values[key].count for run in runs if key in run.values]
        got = share_estimate(values, counts)
    if expected.statistic not in _UNBOUNDED:
        got = got.possible(described.highest)
    unrecovered = _unrecovered(expected, runs)
    held = expected.holds(got.mean) and not unrecovered
    ends = [end for end in (got.low, got.high) if math.isfinite(end)]
    certain = bool(unrecovered) or all(expected.holds(end) == held for end in ends)
    return ExpectationResult(expected, got, held, certain, len(runs), unrecovered)


def _unrecovered(expected: Expectation, runs: Sequence[RunRecord]) -> int:
    """Count the runs that had not recovered at their end, if the expectation is an upper bound.

    Older results have no metric for this, so only their times are compared.
    """
    bounds_time = expected.comparison in _UPPER and expected.statistic != "count"
    if expected.metric != "recovery_s" or not bounds_time:
        return 0
    told = (run.values.get(("recovered", "")) for run in runs)
    return sum(each is not None and each.last == 0 for each in told)
