"""Whether a scenario's expectations held: expected against got, with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sims.results.metrics import metric_of
from sims.results.record import RunRecord
from sims.results.statistics import Estimate, bootstrap_estimate, t_estimate
from sims.scenario.expectation import Expectation

__all__ = ["Verdict", "verdicts"]

_UNBOUNDED: Final = ("sd", "count", "sum")
"""Statistics that may exceed what a single value can."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One expectation and what was measured.

    Attributes:
        expectation: what was promised.
        got: the statistic over the seeds.
        held: whether its mean meets the bound.
        certain: whether the whole confidence interval lies on the same side of the bound.
    """

    expectation: Expectation
    got: Estimate
    held: bool
    certain: bool

    def sentence(self) -> str:
        """Say it for people: expected, got, with interval and number of seeds."""
        word = "held    " if self.held else "NOT HELD"
        if self.got.n == 0:
            return f"{word}  expected {self.expectation}; nothing was measured"
        interval = (
            f" [{self.got.low:.4g}, {self.got.high:.4g}]" if math.isfinite(self.got.low) else ""
        )
        doubt = "" if self.certain else "; the interval reaches across the bound"
        seeds = "seed" if self.got.n == 1 else "seeds"
        return (
            f"{word}  expected {self.expectation}; got {self.got.mean:.4g}{interval}, "
            f"{self.got.n} {seeds}{doubt}"
        )

    def plain(self) -> dict[str, object]:
        """Return the verdict as JSON's own types."""
        return {
            "expected": str(self.expectation),
            "got": self.got.plain(),
            "held": self.held,
            "certain": self.certain,
        }


def verdicts(expected: Sequence[Expectation], runs: Sequence[RunRecord]) -> list[Verdict]:
    """Hold one point's runs against what was expected of them."""
    return [_verdict(each, runs) for each in expected]


def _verdict(expected: Expectation, runs: Sequence[RunRecord]) -> Verdict:
    key = (expected.metric, expected.label)
    values = [run.values[key].statistic(expected) for run in runs if key in run.values]
    estimate = bootstrap_estimate if expected.quantile is not None else t_estimate
    got = estimate(values)
    if expected.statistic not in _UNBOUNDED:
        got = got.possible(metric_of(expected.metric).highest)
    held = expected.holds(got.mean)
    ends = [end for end in (got.low, got.high) if math.isfinite(end)]
    return Verdict(expected, got, held, all(expected.holds(end) == held for end in ends))
