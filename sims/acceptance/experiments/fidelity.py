"""M1: compare the vectorised model with the full simulation, at sizes that both can run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from overlay.settings import Settings, many, number, setting, whole
from sims.acceptance.experiment import Experiment, Measurement, Progress, told
from sims.acceptance.experiment_result import CheckedValue
from sims.acceptance.validation import Comparison, compare
from sims.metrics import metric_of
from sims.scenario.scenario import Scenario
from sims.scenario.sections import Adversary, Arrival, Churn, Circuits, LatencySection
from sims.scenario.values import LINE
from sims.world.churn import parse_model

__all__ = ["M1", "point_of", "scenario_of"]

_CASES: Final = ("kad2007", "kad2007+constant", "kad2007+drop", "kad2007+failure", "p2psim")
_DROPPING: Final = 0.2
_FAILING: Final = 0.33
_CONSTANT_S: Final = 0.05
_CLIENTS: Final = 4
_RECORDS_SHARE: Final = 0.01
_FEWEST_RECORDS: Final = 5
_NODES_IN_ALL: Final = 3000
"""Runs of one size are repeated until they have this many nodes in all, at least once."""


@dataclass(frozen=True, slots=True)
class Fidelities(Settings):
    """M1: each case at each size, for ``minutes`` after ``warm_up_minutes``.

    A case is a session model with optional additions. With ``+drop``, a fifth of the nodes
    answers no lookup. With ``+constant``, every datagram takes equally long. With ``+failure``,
    a third of the nodes on line fails for good after a third of the minutes.
    """

    nodes: tuple[int, ...] = setting(
        (1000, 3000, 10_000), many(whole(100, 100_000)), "Numbers of nodes."
    )
    cases: tuple[str, ...] = setting(
        _CASES, many(LINE), "Session models with additions: +constant, +drop or +failure."
    )
    warm_up_minutes: float = setting(
        60.0, number(5, 10_000, "minutes"), "Simulated minutes before the measurement."
    )
    minutes: float = setting(
        60.0, number(5, 10_000, "minutes"), "Simulated minutes of the measurement."
    )
    model_runs: int = setting(
        8, whole(1, 1000), "Runs of the vectorised model for each run of the full simulation."
    )

    def check(self) -> None:
        """Check settings that depend on each other."""
        for case in self.cases:
            parse_model(scenario_of(case, 1000, self.warm_up_minutes, self.minutes).churn.model)


def scenario_of(case: str, nodes: int, warm_up_minutes: float, minutes: float) -> Scenario:
    """Return the scenario of one case and size.

    Raises:
        ValueError: the case has an unknown addition.
    """
    model, *additions = case.split("+")
    if set(additions) - {"constant", "drop", "failure"}:
        raise ValueError(
            f"a case is a session model with +constant, +drop or +failure, not {case!r}"
        )
    drop = Adversary(_DROPPING, ("drop",)) if "drop" in additions else Adversary()
    constant = (
        LatencySection("constant", _CONSTANT_S) if "constant" in additions else LatencySection()
    )
    failure = Arrival("mass-failure", 60 * minutes / 3, _FAILING)
    return Scenario(
        name="accept-m1",
        nodes=nodes,
        warm_up_s=60 * warm_up_minutes,
        duration_s=60 * minutes,
        sample_interval_s=300.0,
        records=max(_FEWEST_RECORDS, round(_RECORDS_SHARE * nodes)),
        circuits=Circuits(clients=_CLIENTS),
        churn=Churn(model),
        adversary=drop,
        latency=constant,
        arrival=failure if "failure" in additions else Arrival(),
        seeds=(1,),
    )


def _measure(settings: Fidelities, seeds: int, progress: Progress) -> Measurement:
    points: list[CheckedValue] = []
    unjudged: list[str] = []
    for case in settings.cases:
        for nodes in settings.nodes:
            runs = max(1, min(seeds, _NODES_IN_ALL // nodes))
            progress(f"M1: {case}, {nodes} nodes, {runs} runs of the full simulation")
            scenario = scenario_of(case, nodes, settings.warm_up_minutes, settings.minutes)
            compared = compare(
                scenario,
                full_seeds=range(1, runs + 1),
                model_seeds=range(1, settings.model_runs + 1),
            )
            # If the band is several times as wide as the bound, almost any result would be in it.
            judged = [each for each in compared if each.is_sharp]
            unjudged += [f"{case}: {e.measure.name}" for e in compared if not e.is_sharp]
            points += told("M1", [point_of(case, nodes, each) for each in judged], progress)
    note = "expected: the full simulation; measured: the model"
    if unjudged:
        note += f"; too few runs to judge, and left out: {', '.join(unjudged)}"
    return Measurement(points, note)


def point_of(case: str, nodes: int, compared: Comparison) -> CheckedValue:
    """Return a comparison as a point: expected by the full simulation, measured by the model."""
    full, tolerance = compared.full, compared.tolerance
    described = metric_of(compared.measure.metric)
    return CheckedValue(
        f"{case}: {compared.measure.name}",
        nodes,
        compared.model,
        full,
        max(0.0, full - tolerance),  # no metric is below 0, and no fraction is above 1
        min(described.highest, full + tolerance),
        compared.error,
    )


M1 = Experiment(
    "M1",
    "The vectorised model against the full simulation",
    "the bound of each measure (docs/simulator.md), or 3 standard errors",
    "nodes",
    "value",
    Fidelities(),
    Fidelities((1000,), ("kad2007",), warm_up_minutes=10.0, minutes=10.0, model_runs=4),
    _measure,
    by_row=True,
)
