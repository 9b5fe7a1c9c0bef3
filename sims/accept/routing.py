"""E5 to E7: the product's lookup over the product's tables, whole and damaged."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from statistics import fmean, stdev
from typing import Final

from overlay.dht.settings import DhtSettings
from sims.accept.experiment import Experiment, Measurement, Progress
from sims.accept.ideal import IdealOverlay, as_id, drive, random_ids
from sims.accept.verdict import Point, within
from sims.engine.keyspace import ID_BITS
from sims.theory import geometry

__all__ = ["E5", "E6", "E7"]

_THEORY_TRIALS: Final = 3000
_PER_NETWORK: Final = 25
"""Lookups in one damaged network, so that one network's luck does not weigh."""


def greedy(k: int) -> DhtSettings:
    """Return the settings of a lookup that asks one node at a time."""
    return DhtSettings(k=k, alpha=1, disjoint_paths=1)


@dataclass(frozen=True, slots=True)
class Hops:
    """Lookups of existing nodes, ``lookups`` for each point, from random others."""

    nodes: tuple[int, ...] = (256, 1024, 4096, 16_384)
    k: tuple[int, ...] = (8, 16, 20)
    lookups: int = 2000


def _hops(nodes: int, k: int, lookups: int, rng: Random) -> list[int]:
    """Return the hops to the target of each lookup, over one overlay."""
    overlay = IdealOverlay(random_ids(nodes, rng), greedy(k), rng)
    ids = list(overlay.contacts)
    return [_hops_to(overlay, *rng.sample(ids, 2)) for _ in range(lookups)]


def _hops_to(overlay: IdealOverlay, source: int, target: int) -> int:
    settings = overlay.settings
    lookup = overlay.look_up(source, target, settings)
    drive(lookup, lambda query: overlay.answer(query, settings.k), until=as_id(target))
    hops = lookup.hops_to(as_id(target))
    return settings.lookup_max_hops if hops is None else hops + 1


def _measured_hops(
    settings: Hops, name: str, nodes: int, k: int, seeds: int, progress: Progress
) -> tuple[float, float]:
    """Return the mean over all seeds' lookups, and its standard error."""
    found: list[int] = []
    for seed in range(seeds):
        progress(f"{name}: {nodes} nodes, k = {k}, seed {seed + 1}")
        rng = Random(f"{name} {nodes} {k} {seed}")
        found += _hops(nodes, k, max(2, settings.lookups // seeds), rng)
    return fmean(found), stdev(found) / math.sqrt(len(found))


def _measure_log(settings: Hops, seeds: int, progress: Progress) -> Measurement:
    points: list[Point] = []
    for nodes in settings.nodes:
        mean, error = _measured_hops(settings, "E5", nodes, 1, seeds, progress)
        expected = geometry.hops_formula(nodes, 1)
        points.append(within("k = 1", nodes, mean, expected, 0.03 * expected, error))
    return Measurement(points)


def _measure_hops(settings: Hops, seeds: int, progress: Progress) -> Measurement:
    points: list[Point] = []
    for k in settings.k:
        for nodes in settings.nodes:
            mean, error = _measured_hops(settings, "E6", nodes, k, seeds, progress)
            trials = max(300, min(_THEORY_TRIALS, 2_000_000 // nodes))
            expected = geometry.greedy_hops(nodes, k, trials=trials, rng=Random("theory"))
            points.append(within(f"k = {k}", nodes, mean, expected, 0.05 * expected, error))
    return Measurement(points, "expected: Monte Carlo over nested subtrees, no table involved")


@dataclass(frozen=True, slots=True)
class Damage:
    """2^bits ids, buckets of k contacts, a share ``dead`` of all nodes gone, no repair.

    ``error`` is the standard error to reach on either side; it decides how many lookups.
    """

    bits: int = 10
    k: tuple[int, ...] = (1, 2, 4, 8)
    dead: tuple[float, ...] = (0.1, 0.2, 0.5)
    error: float = 0.004

    def __post_init__(self) -> None:
        if not (2 <= self.bits <= 20 and 0 < self.error <= 0.1):
            raise ValueError("bits lie between 2 and 20, the error between 0 and 0.1")
        if not all(0 <= dead < 1 for dead in self.dead):
            raise ValueError("a share of dead nodes lies between 0 and 1")


def _measure_damage(settings: Damage, seeds: int, progress: Progress) -> Measurement:
    points: list[Point] = []
    for k in settings.k:
        for dead in settings.dead:
            progress(f"E7: {dead:.0%} dead, k = {k}")
            pilot = geometry.static_resilience(
                settings.bits, k, dead, trials=400, rng=Random(f"pilot {k} {dead}")
            )
            spread = max(pilot * (1 - pilot), 0.004)
            trials = max(400, math.ceil(spread / settings.error**2))
            expected = geometry.static_resilience(
                settings.bits, k, dead, trials=trials, rng=Random(f"theory {k} {dead}")
            )
            measured = _arrivals(settings.bits, k, dead, trials, Random(f"E7 {seeds} {k} {dead}"))
            error = math.sqrt(spread / trials)
            points.append(within(f"k = {k}", dead, measured, expected, 0.02, error))
    return Measurement(points, "expected: Monte Carlo of a greedy walk, contacts drawn one by one")


def _arrivals(bits: int, k: int, dead: float, trials: int, rng: Random) -> float:
    """Return the share of lookups that reach their target, many small batches of networks."""
    arrived = made = 0
    while made < trials:
        ids = [number << (ID_BITS - bits) for number in range(1 << bits)]
        gone = [number for number in ids if rng.random() < dead]
        overlay = IdealOverlay(ids, DhtSettings(k=k), rng, dead=gone, with_replacement=True)
        living = sorted(set(ids) - overlay.dead)
        if len(living) < 2:
            raise ValueError("nobody is left to look anybody up")
        for _ in range(min(_PER_NETWORK, trials - made)):
            source, target = rng.sample(living, 2)
            arrived += _reaches(overlay, source, target)
            made += 1
    return arrived / made


def _reaches(overlay: IdealOverlay, source: int, target: int) -> bool:
    """Walk greedily: a shortlist of one, so the product's lookup never turns back."""
    lookup = overlay.look_up(source, target, greedy(1), only_nearer=True)
    drive(lookup, lambda query: overlay.answer(query, 1), until=as_id(target))
    return lookup.hops_to(as_id(target)) is not None


E5 = Experiment(
    "E5",
    "Hops with one contact a bucket",
    "log2(N)/2 ±3 %",
    "nodes",
    "mean hops",
    Hops(k=(1,), lookups=10_000),
    Hops(nodes=(256, 1024, 4096), k=(1,), lookups=4000),
    _measure_log,
)
E6 = Experiment(
    "E6",
    "Hops with k contacts a bucket",
    "independent Monte Carlo ±5 %",
    "nodes",
    "mean hops",
    Hops(),
    Hops(nodes=(256, 1024), k=(8, 20), lookups=500),
    _measure_hops,
)
E7 = Experiment(
    "E7",
    "Static resilience: dead nodes, no repair",
    "independent Monte Carlo ±0.02",
    "share of dead nodes",
    "share of greedy lookups that arrive",
    Damage(),
    Damage(k=(1, 4), dead=(0.5,), error=0.006),
    _measure_damage,
)
