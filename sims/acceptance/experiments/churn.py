"""E1 and E2: session lengths, and an overlay that begins in equilibrium."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray

from overlay.settings import Settings, many, setting, whole
from sims.acceptance.experiment import Experiment, Measurement, Progress
from sims.acceptance.experiment_result import CheckedValue, within
from sims.acceptance.experiments.sessions import closed_forms, leaving_model
from sims.acceptance.theory import records
from sims.scenario.values import LINE
from sims.special import kolmogorov_p
from sims.world.churn import ChurnEvent, SessionModel, churn_events
from sims.world.churn.lifetimes import Lifetimes

__all__ = ["E1", "E2"]

_MINUTE = 60.0
_HOUR = 3600.0
_LEAST_P = 0.01


@dataclass(frozen=True, slots=True)
class Draws(Settings):
    """E1: ``draws`` lengths of each kind from the model, drawn one by one and as an array.

    Nodes that never leave have no session length, so they are not drawn.
    """

    model: str = setting("kad2007", LINE, "Session model.")
    draws: int = setting(
        100_000,
        whole(1000, 10_000_000),
        "Lengths of sessions, and of absences, that are drawn in each way.",
    )

    def check(self) -> None:
        """Check settings that depend on each other."""
        _in_closed_form(leaving_model(self.model))


def _measure_draws(settings: Draws, seeds: int, progress: Progress) -> Measurement:
    model = leaving_model(settings.model)
    points: list[CheckedValue] = []
    for name, lifetimes in (("on", model.on), ("off", model.off)):
        if lifetimes is None:
            continue
        for how, draw in (("one by one", _one_by_one), ("at once", _at_once)):
            progress(f"E1: {settings.draws:,} draws of {name}-time, {how}")
            draws = draw(lifetimes, settings.draws, f"{name} {seeds}")
            points += _judge_draws(f"{name}, {how}", lifetimes, draws)
    note = "x: 1 mean, 2 median (minutes), 3 p-value of Kolmogorov-Smirnov"
    if model.permanent_share:
        note += f"; the {model.permanent_share:.0%} that never leave are not drawn"
    return Measurement(points, note)


def _one_by_one(lifetimes: Lifetimes, count: int, label: str) -> NDArray[np.float64]:
    rng = Random(f"E1 {label}")
    return np.array([lifetimes.sample(rng) for _ in range(count)])


def _at_once(lifetimes: Lifetimes, count: int, label: str) -> NDArray[np.float64]:
    return lifetimes.samples(np.random.default_rng(list(label.encode())), count)


def _judge_draws(
    curve: str, lifetimes: Lifetimes, draws: NDArray[np.float64]
) -> list[CheckedValue]:
    mean, deviation, median, survival, _ = closed_forms(lifetimes)
    p_value = kolmogorov_p(_ks_statistic(draws, survival), len(draws))
    of_mean = deviation / math.sqrt(len(draws))
    of_median = _error_of_median(median, survival, len(draws))
    points = [
        _length_point(f"{curve}: median, min", 2, float(np.median(draws)), median, of_median),
        CheckedValue(f"{curve}: K-S p-value", 3, p_value, None, _LEAST_P, 1.0),
    ]
    if math.isfinite(deviation):  # with infinite variance the mean of a sample does not converge
        mean_point = _length_point(f"{curve}: mean, min", 1, float(np.mean(draws)), mean, of_mean)
        points.insert(0, mean_point)
    return points


def _length_point(
    curve: str, x: float, got_s: float, expected_s: float, error_s: float
) -> CheckedValue:
    band_s = max(0.03 * expected_s, 3 * error_s)
    lengths_s = got_s, expected_s, band_s, error_s
    return within(curve, x, *(each / _MINUTE for each in lengths_s))


def _error_of_median(median: float, survival: Callable[[float], float], count: int) -> float:
    """Return 1 / (2 f sqrt(n)), where f is the density at the median."""
    step = 1e-4 * median
    density = (survival(median - step) - survival(median + step)) / (2 * step)
    return 1 / (2 * density * math.sqrt(count))


def _in_closed_form(model: SessionModel) -> SessionModel:
    """Return the model if theory has its distributions; otherwise raise ValueError."""
    for lifetimes in (model.on, model.off):
        if lifetimes is not None:
            closed_forms(lifetimes)
    return model


def _ks_statistic(draws: NDArray[np.float64], survival: Callable[[float], float]) -> float:
    ordered = np.sort(draws)
    fitted = np.array([1 - survival(float(x)) for x in ordered])
    steps = np.arange(len(ordered) + 1) / len(ordered)
    return float(max(np.max(steps[1:] - fitted), np.max(fitted - steps[:-1])))


@dataclass(frozen=True, slots=True)
class Equilibria(Settings):
    """E2: an overlay observed every hour, and residual sessions of nodes on line at the start."""

    model: str = setting("kad2007", LINE, "Session model with absences.")
    nodes: int = setting(2000, whole(100, 1_000_000), "Number of nodes.")
    hours: int = setting(
        48, whole(1, 1000, "hours"), "Hours at whose ends the nodes on line are counted."
    )
    minutes: tuple[int, ...] = setting(
        (60, 120, 360),
        many(whole(1, 60_000, "minutes")),
        "Times at which the survivors of the first nodes on line are counted, in minutes.",
    )

    def check(self) -> None:
        """Check settings that depend on each other."""
        if _in_closed_form(leaving_model(self.model)).off is None:
            raise ValueError("the model needs absences, or all nodes are on line at every hour")
        if max(self.minutes) >= 60 * self.hours:
            raise ValueError(
                f"{max(self.minutes)} minutes cannot be seen within {self.hours} hours; "
                "set hours to more, or minutes to less"
            )


def _measure_equilibrium(settings: Equilibria, seeds: int, progress: Progress) -> Measurement:
    model = leaving_model(settings.model)
    if model.off is None:
        raise ValueError("the model has no absences")
    share = records.availability(closed_forms(model.on).mean, closed_forms(model.off).mean)
    shares = np.zeros((seeds, settings.hours + 1))
    lives: list[float] = []
    for seed in range(seeds):
        progress(f"E2: {settings.nodes} nodes for {settings.hours} h, seed {seed + 1}")
        events = list(
            churn_events(
                model, settings.nodes, Random(f"E2 {seed}"), duration_s=settings.hours * _HOUR
            )
        )
        shares[seed] = _online_shares(events, settings)
        lives += _first_lives(events, settings.hours * _HOUR)
    return Measurement(
        [*_hourly_points(shares, share, settings), *_life_points(lives, model, settings)],
        "hours 0 and up, each a mean over the seeds; residual survival at its minute",
    )


def _hourly_points(
    shares: NDArray[np.float64], share: float, settings: Equilibria
) -> list[CheckedValue]:
    seeds = len(shares)
    error = records.online_deviation(settings.nodes, share) / settings.nodes / math.sqrt(seeds)
    # The stated band is for 10 seeds of 2,000 nodes. Smaller runs get 3 standard errors.
    band = max(0.01, 3.5 * error)
    return [
        within("on line, by hour", hour, float(np.mean(shares[:, hour])), share, band, error)
        for hour in range(settings.hours + 1)
    ]


def _life_points(
    lives: Sequence[float], model: SessionModel, settings: Equilibria
) -> list[CheckedValue]:
    points = []
    for minutes in settings.minutes:
        expected = closed_forms(model.on).residual(minutes * _MINUTE)
        measured = sum(life > minutes * _MINUTE for life in lives) / len(lives)
        error = math.sqrt(expected * (1 - expected) / len(lives))
        points.append(
            within("still on line, by minute", minutes, measured, expected,
                   max(0.02, 3 * error), error)
        )  # fmt: skip
    return points


def _online_shares(events: Sequence[ChurnEvent], settings: Equilibria) -> list[float]:
    times = [event.time_s for event in events]
    balance = np.cumsum([1 if event.online else -1 for event in events])
    counts = [bisect_right(times, hour * _HOUR) for hour in range(settings.hours + 1)]
    return [float(balance[count - 1]) / settings.nodes if count else 0.0 for count in counts]


def _first_lives(events: Sequence[ChurnEvent], duration_s: float) -> list[float]:
    """Return a lower bound of the residual session of each node on line at the start."""
    lives = {event.node: duration_s for event in events if event.online and event.time_s == 0}
    ended: set[int] = set()
    for event in events:
        if not event.online and event.node in lives and event.node not in ended:
            ended.add(event.node)
            lives[event.node] = event.time_s
    return list(lives.values())


E1 = Experiment(
    "E1",
    "Session lengths have their published distribution",
    "mean and median ±3 % (or 3 standard errors), Kolmogorov-Smirnov p > 0.01",
    "1 mean, 2 median, 3 p-value",
    "minutes, or p",
    Draws(),
    Draws(),
    _measure_draws,
    by_row=True,
)
E2 = Experiment(
    "E2",
    "The overlay begins in equilibrium and stays in it",
    "on-line share ±0.01 at every hour, residual survival ±0.02 (or 3 standard errors)",
    "hour, or minute of residual life",
    "share of nodes",
    Equilibria(),
    Equilibria(hours=24),
    _measure_equilibrium,
)
