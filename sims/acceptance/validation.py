"""Compare the model with the full simulation: same scenarios, same metrics, stated bounds.

A bound says how far the model's mean may be from the full simulation's, with the reason. It is
``absolute`` or ``relative`` to the full simulation, whichever is larger. If runs vary more than
that, three standard errors are the bound. The variation between runs comes from the seeds of the
model, which are cheap. The variation of single events of the full simulation is added.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from sims.metrics import metric_of
from sims.observations import Observations, RunOutcome
from sims.scenario.scenario import Scenario
from sims.studies.sweep.jobs import run_scenario

__all__ = ["MEASURES", "Comparison", "Measure", "compare", "compare_outcomes"]

_STANDARD_ERRORS: Final = 3.0

Run = Callable[[Scenario, int], RunOutcome]


@dataclass(frozen=True, slots=True)
class Measure:
    """One statistic of one metric, and the permitted deviation of the model.

    Attributes:
        metric, label: as in observations.
        quantile: of the observations; None means the mean.
        relative, absolute: the larger one is the bound.
        reason: why the model deviates.
    """

    metric: str
    relative: float
    absolute: float
    reason: str
    label: str = ""
    quantile: float | None = None

    @property
    def name(self) -> str:
        """The name in reports."""
        name = self.metric + (f" ({self.label})" if self.label else "")
        return name if self.quantile is None else f"{name} p{100 * self.quantile:g}"

    def of(self, values: Sequence[float]) -> float:
        """Return the statistic of some observations; NaN if there are none."""
        if not values:
            return math.nan
        if self.quantile is None:
            return math.fsum(values) / len(values)
        return float(np.quantile(values, self.quantile))


_SAME_PROCESS: Final = "the same renewal process, other draws of few hundred nodes"
_DRAWN: Final = "contacts are drawn anew each time a table is read"
_RATES: Final = "departures are detected by mean rates of calls"

MEASURES: Final = (
    Measure("online_share", 0.1, 0.0, _SAME_PROCESS),
    Measure("leaves_per_hour", 0.25, 0.0, _SAME_PROCESS),
    Measure("lookup_success", 0.0, 0.01, "holders are those of the true nearest nodes"),
    Measure("lookup_closest_share", 0.0, 0.01, _DRAWN),
    Measure("lookup_hops", 0.05, 0.0, _DRAWN),
    Measure("lookup_queries", 0.08, 0.0, _DRAWN),
    Measure("lookup_latency_s", 0.1, 0.0, "timeouts and cookies are means", quantile=0.5),
    Measure("lookup_latency_s", 0.1, 0.0, "timeouts and cookies are means", quantile=0.9),
    Measure("table_contacts", 0.05, 0.0, _DRAWN),
    Measure("table_stale_share", 0.25, 0.01, _RATES),
    Measure("neighbours_known", 0.0, 0.02, "new nodes are known at once"),
    Measure("record_holders", 0.05, 0.0, "stored with the true nearest, not those found"),
    Measure("record_survival", 0.0, 0.005, "likewise"),
    Measure("record_holders", 0.08, 0.0, "likewise", label="once"),
    Measure("record_survival", 0.0, 0.01, "likewise", label="once"),
    Measure("mtt_coverage", 0.0, 0.02, "a crawl takes no time"),
    Measure("mtt_staleness", 0.15, 0.02, "departed nodes are found for twenty minutes, then never"),
    Measure("mtt_overlap", 0.0, 0.03, "likewise"),
    Measure("path_first_try", 0.0, 0.05, "relays fail only by leaving"),
    Measure("messages_per_node_s", 0.15, 0.0, "mean rates of periodic tasks"),
)
"""All metrics of both simulations, except the fill of single buckets."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One measure of one scenario at both fidelities.

    Attributes:
        measure: what is compared.
        full, model: means over the seeds.
        error: standard error of the difference.
    """

    measure: Measure
    full: float
    model: float
    error: float

    @property
    def tolerance(self) -> float:
        """The permitted difference between the model and the full simulation."""
        bound = max(self.measure.absolute, self.measure.relative * abs(self.full))
        return max(bound, _STANDARD_ERRORS * self.error)

    @property
    def is_sharp(self) -> bool:
        """Whether the bound is at most three times the stated one, so that the check can fail."""
        own = max(self.measure.absolute, self.measure.relative * abs(self.full))
        return self.tolerance <= 3 * own

    @property
    def holds(self) -> bool:
        """Whether the difference is within the bound."""
        return abs(self.model - self.full) <= self.tolerance


def compare(
    scenario: Scenario,
    *,
    full_seeds: Iterable[int],
    model_seeds: Iterable[int],
    run: Run = run_scenario,
) -> list[Comparison]:
    """Run a scenario at both fidelities and compare the results.

    Args:
        scenario: what to simulate; its fidelity and seeds are ignored.
        full_seeds: seeds of the full simulation, at least one.
        model_seeds: seeds of the model, at least two.
        run: runs one scenario with one seed.
    """
    full = [run(replace(scenario, fidelity="full"), seed) for seed in full_seeds]
    model = [run(replace(scenario, fidelity="model"), seed) for seed in model_seeds]
    return compare_outcomes(full, model, scenario.warm_up_s)


def compare_outcomes(
    full: Sequence[RunOutcome], model: Sequence[RunOutcome], warm_up_s: float
) -> list[Comparison]:
    """Compare the results of runs at both fidelities after the warm-up.

    Raises:
        ValueError: there are fewer than one full run and two runs of the model.
    """
    if not full or len(model) < 2:
        raise ValueError("one run of the full simulation and two of the model are needed")
    full_values = [_values(each.observations, warm_up_s) for each in full]
    model_values = [_values(each.observations, warm_up_s) for each in model]
    compared = [_compared(measure, full_values, model_values) for measure in MEASURES]
    return [each for each in compared if not math.isnan(each.full)]


Values = dict[tuple[str, str], list[float]]


def _values(observations: Observations, warm_up_s: float) -> Values:
    values: Values = {}
    for time_s, metric, label, value in observations:
        if time_s > warm_up_s:
            values.setdefault((metric, label), []).append(value)
    return values


def _compared(measure: Measure, full: list[Values], model: list[Values]) -> Comparison:
    key = measure.metric, measure.label
    of_full = [measure.of(values.get(key, [])) for values in full]
    of_model = [measure.of(values.get(key, [])) for values in model]
    scatter = float(np.std(of_model, ddof=1))
    variance = scatter**2 * (1 / len(full) + 1 / len(model))
    events = [value for values in full for value in values.get(key, [])]
    if events and measure.quantile is None:
        variance += _variance_of_mean(metric_of(measure.metric).kind, events)
    return Comparison(
        measure, float(np.mean(of_full)), float(np.mean(of_model)), math.sqrt(variance)
    )


def _variance_of_mean(kind: str, events: list[float]) -> float:
    """Return the variance of a mean of single events; it is 0 for sampled states."""
    count = len(events)
    if kind == "yes-no":
        # Add one event of each kind, because few events may all agree by chance.
        share = (math.fsum(events) + 1) / (count + 2)
        return share * (1 - share) / count
    return float(np.var(events)) / count if kind == "distribution" else 0.0
