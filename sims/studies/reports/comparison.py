"""Compare the points of a study, seed by seed.

Runs with the same seed share nodes, sessions and random draws as far as the points allow. So
the difference within a pair varies less than the difference between means. The confidence
interval is that of the mean of these differences.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from sims.metrics import GROUPS, metric_of, needs_adversary
from sims.studies.results.statistics import Estimate, t_estimate
from sims.studies.results.summary import PointSummary

__all__ = ["Difference", "differences", "important_first"]


@dataclass(frozen=True, slots=True)
class Difference:
    """A metric at one point minus the same metric at the first point, over common seeds."""

    point: str
    metric: str
    estimate: Estimate

    @property
    def is_equal(self) -> bool:
        """Whether both points have the same value with every seed."""
        return self.estimate.n > 1 and self.estimate.mean == self.estimate.sd == 0

    @property
    def shown(self) -> bool:
        """Whether the interval excludes 0."""
        low, high = self.estimate.low, self.estimate.high
        if not math.isfinite(low):
            return False
        return not low <= 0 <= high

    @property
    def words(self) -> str:
        """The conclusion from the difference, as text for a report."""
        if self.estimate.n < 2:
            return "too few seeds to tell"
        if self.is_equal:
            return "equal with every seed"
        if not self.shown:
            return "no difference shown"
        return "higher" if self.estimate.mean > 0 else "lower"

    def plain(self) -> dict[str, object]:
        """Return the difference as JSON's own types."""
        return {
            "point": self.point,
            "metric": self.metric,
            **self.estimate.plain(),
            "verdict": self.words,
        }


def differences(points: Sequence[PointSummary]) -> Iterator[Difference]:
    """Yield the differences of every point from the first, metric by metric."""
    if len(points) < 2:
        return
    base = {run.seed: run for run in points[0].runs}
    for metric in dict.fromkeys(s.metric for p in points for s in p.metrics if not s.label):
        if needs_adversary(metric) and not points[0].point.scenario.adversary.is_there:
            continue
        key = (metric, "")
        for point in points[1:]:
            pairs = [
                run.values[key].mean - base[run.seed].values[key].mean
                for run in point.runs
                if run.seed in base and key in run.values and key in base[run.seed].values
            ]
            if pairs:
                yield Difference(point.point.name, metric, _estimate(pairs))


def _estimate(pairs: Sequence[float]) -> Estimate:
    """Return the mean difference with its interval; equal values have no interval.

    An interval of width 0 would claim certainty that a few equal seeds do not give.
    """
    if any(pairs):
        return t_estimate(pairs)
    return replace(t_estimate(pairs), low=math.nan, high=math.nan)


def important_first(points: Sequence[PointSummary]) -> list[str]:
    """Return the chapters of a report; those with expectations come first."""
    expected = [metric_of(e.metric).group for p in points for e in p.point.scenario.expectations]
    return list(dict.fromkeys((*expected, *GROUPS)))
