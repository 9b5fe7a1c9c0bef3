"""E13: compare the product's eclipse alarm with order statistics of uniform ids."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from statistics import fmean, stdev
from typing import Final

import numpy as np

from overlay.dht.eclipse import (
    SIGNIFICANCE,
    chance_of_density,
    estimated_size,
    kth_nearest_distance,
)
from overlay.settings import Settings, many, setting, whole
from sims.acceptance.experiment import Experiment, Measurement, Progress
from sims.acceptance.experiment_result import CheckedValue, within
from sims.acceptance.theory import eclipse
from sims.world.engine.keyspace import ID_BITS

__all__ = ["E13"]

_SPACE: Final = 2.0**ID_BITS
_NODES_PER_K: Final = 10
_PER_OVERLAY: Final = 50
"""Lookups per drawn overlay, with distant targets so that few lookups share a node."""


@dataclass(frozen=True, slots=True)
class Alarm(Settings):
    """E13: lookups among ``nodes`` uniform ids, with ``sybils`` ids nearer than all honest ones.

    The alarm models ids as a Poisson process. That is accurate if k is a small part of all ids.
    For k < 8 the sample deviation of the size estimate does not converge.
    """

    nodes: int = setting(1000, whole(80, 1_000_000), "Number of honest nodes.")
    k: int = setting(20, whole(8, 64), "Contacts that a lookup returns.")
    sybils: tuple[int, ...] = setting(
        (20, 10, 5),
        many(whole(1, 1000)),
        "Numbers of malicious ids nearer to the key than all honest ones.",
    )
    false_alarm_draws: int = setting(
        40_000, whole(1000, 10_000_000), "Lookups without malicious ids."
    )
    draws: int = setting(4000, whole(100, 10_000_000), "Lookups with each number of malicious ids.")

    def check(self) -> None:
        """Check settings that depend on each other."""
        if self.nodes < _NODES_PER_K * self.k:
            raise ValueError(f"nodes must be at least {_NODES_PER_K} k, so {_NODES_PER_K * self.k}")


def _measure(settings: Alarm, seeds: int, progress: Progress) -> Measurement:
    progress(f"E13: false alarms among {settings.nodes} nodes")
    shares = _shares(settings, 0, settings.false_alarm_draws, Random(f"E13 {seeds}"))
    alarms = _alarm_rate(settings, shares)
    error = math.sqrt(SIGNIFICANCE / len(shares))
    points = [
        within("alarms", 0, alarms, SIGNIFICANCE, max(0.004, 3 * error), error),
        _size_point(settings, shares),
    ]
    for sybils in settings.sybils:
        progress(f"E13: {sybils} Sybils around a key")
        rng = Random(f"E13 {seeds} {sybils}")
        power = _alarm_rate(settings, _shares(settings, sybils, settings.draws, rng))
        expected = eclipse.eclipse_power(
            settings.nodes, settings.k, sybils, SIGNIFICANCE, trials=20_000,
            rng=np.random.default_rng(13),
        )  # fmt: skip
        error = math.sqrt(max(expected * (1 - expected), 1e-4) / settings.draws)
        points.append(within("alarms", sybils, power, expected, max(0.05, 3 * error), error))
    return Measurement(points, f"alarm below a chance of {SIGNIFICANCE}; x: Sybils")


def _size_point(settings: Alarm, shares: list[float]) -> CheckedValue:
    estimates = [estimated_size(share, settings.k) for share in shares]
    deviation = stdev(estimates) / fmean(estimates)
    expected = eclipse.estimate_deviation(settings.k, settings.nodes)
    return within("relative sd of the size estimate", 0, deviation, expected, 0.01)


def _alarm_rate(settings: Alarm, shares: list[float]) -> float:
    alarms = [chance_of_density(settings.nodes, s, settings.k) < SIGNIFICANCE for s in shares]
    return sum(alarms) / len(alarms)


def _shares(settings: Alarm, sybils: int, draws: int, rng: Random) -> list[float]:
    """Return the k-th nearest distance of each lookup as a fraction of the key space."""
    found: list[float] = []
    while len(found) < draws:
        honest = sorted(rng.getrandbits(ID_BITS) for _ in range(settings.nodes))
        for _ in range(_PER_OVERLAY):
            target = rng.getrandbits(ID_BITS)
            ids = honest
            if sybils:
                nearest = kth_nearest_distance(honest, target, 1)
                ids = sorted([*honest, *(target ^ rng.randrange(nearest) for _ in range(sybils))])
            found.append((kth_nearest_distance(ids, target, settings.k) + 1) / _SPACE)
    return found


E13 = Experiment(
    "E13",
    "Eclipse alarm",
    "false alarms ±0.004, power ±0.05 (or 3 standard errors), "
    "relative sd of the size estimate ±0.01",
    "Sybils nearer than every honest node",
    "share of lookups that raise the alarm",
    Alarm(),
    Alarm(false_alarm_draws=20_000, draws=2000),
    _measure,
)
