"""E5 to E7: the product's lookup over intact and over damaged tables of the product."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from statistics import fmean, stdev
from typing import Final

import numpy as np

from overlay.dht.inspection import LookupInspection
from overlay.dht.settings import DhtSettings
from overlay.settings import Settings, many, number, setting, whole
from sims.acceptance.experiment import Experiment, Measurement, Progress
from sims.acceptance.experiment_result import CheckedValue, within
from sims.acceptance.experiments.ideal import IdealOverlay, as_id, drive, random_ids
from sims.acceptance.theory import geometry
from sims.world.engine.keyspace import ID_BITS

__all__ = ["E5", "E6", "E7"]

_THEORY_TRIALS: Final = 20_000
_PER_NETWORK: Final = 25
"""Mean number of lookups per damaged network. Many networks average out their differences."""

_SHARED_LUCK: Final = 1.4
"""Upper bound of the ratio between the variance of these lookups and of independent ones."""

_FEWEST_LIVING: Final = 4


def greedy(k: int) -> DhtSettings:
    """Return settings of a lookup that asks one node at a time."""
    return DhtSettings(k=k, alpha=1, disjoint_paths=1)


@dataclass(frozen=True, slots=True)
class SingleHops(Settings):
    """E5: ``lookups`` lookups per point, from random nodes, of other existing nodes.

    The mean approaches log2(N)/2. For 24 nodes this is 2 % too small, for 2 nodes 50 %.
    """

    nodes: tuple[int, ...] = setting(
        (256, 1024, 4096, 16_384), many(whole(64, 200_000)), "Numbers of nodes."
    )
    lookups: int = setting(10_000, whole(100, 10_000_000), "Lookups for each number of nodes.")


@dataclass(frozen=True, slots=True)
class Hops(Settings):
    """E6: the same with k contacts per bucket."""

    nodes: tuple[int, ...] = setting(
        (256, 1024, 4096, 16_384), many(whole(2, 200_000)), "Numbers of nodes."
    )
    k: tuple[int, ...] = setting(
        (8, 16, 20), many(whole(1, 64)), "Numbers of contacts in a bucket."
    )
    lookups: int = setting(2000, whole(100, 10_000_000), "Lookups for each combination.")


def _hops(nodes: int, k: int, lookups: int, rng: Random) -> list[int]:
    """Return the number of hops of each lookup; the number of nodes bounds it."""
    found: list[int] = []
    while len(found) < lookups:
        overlay = IdealOverlay(random_ids(nodes, rng), greedy(k), rng)
        ids = list(overlay.contacts)
        count = min(nodes, lookups - len(found))
        found += [_hops_to(overlay, *rng.sample(ids, 2)) for _ in range(count)]
    return found


def _hops_to(overlay: IdealOverlay, source: int, target: int) -> int:
    settings = overlay.settings
    lookup = overlay.look_up(source, target, settings)
    drive(lookup, lambda query: overlay.answer(query, settings.k), until=as_id(target))
    hops = LookupInspection(lookup).hops_to(as_id(target))
    return settings.lookup_max_hops if hops is None else hops + 1


def _measured_hops(
    name: str, lookups: int, nodes: int, k: int, seeds: int, progress: Progress
) -> tuple[float, float]:
    """Return the mean over the lookups of all seeds, and its standard error."""
    found: list[int] = []
    for seed in range(seeds):
        progress(f"{name}: {nodes} nodes, k = {k}, seed {seed + 1}")
        rng = Random(f"{name} {nodes} {k} {seed}")
        found += _hops(nodes, k, max(2, lookups // seeds), rng)
    return fmean(found), stdev(found) / math.sqrt(len(found))


def _measure_log(settings: SingleHops, seeds: int, progress: Progress) -> Measurement:
    points: list[CheckedValue] = []
    for nodes in settings.nodes:
        mean, error = _measured_hops("E5", settings.lookups, nodes, 1, seeds, progress)
        expected = geometry.hops_formula(nodes, 1)
        band = max(0.03 * expected, 3 * error)
        points.append(within("k = 1", nodes, mean, expected, band, error))
    return Measurement(points)


def _measure_hops(settings: Hops, seeds: int, progress: Progress) -> Measurement:
    points: list[CheckedValue] = []
    for k in settings.k:
        for nodes in settings.nodes:
            mean, error = _measured_hops("E6", settings.lookups, nodes, k, seeds, progress)
            expected = geometry.greedy_hops(
                nodes, k, trials=_THEORY_TRIALS, rng=np.random.default_rng(6)
            )
            band = max(0.05 * expected, 3 * error)
            points.append(within(f"k = {k}", nodes, mean, expected, band, error))
    return Measurement(points, "expected: Monte Carlo over nested subtrees, no table involved")


@dataclass(frozen=True, slots=True)
class Damage(Settings):
    """E7: 2^bits ids, k contacts per bucket, a fraction ``dead`` of failed nodes, no repair.

    ``error`` is the standard error to reach by simulation and by theory; it determines the
    number of lookups.
    """

    bits: int = setting(10, whole(2, 20), "Length of ids; every id of that length is a node.")
    k: tuple[int, ...] = setting(
        (1, 2, 4, 8), many(whole(1, 64)), "Numbers of contacts in a bucket."
    )
    dead: tuple[float, ...] = setting(
        (0.1, 0.2, 0.5), many(number(0, 0.95)), "Fractions of failed nodes."
    )
    error: float = setting(
        0.004,
        number(0.001, 0.1),
        "Standard error to reach by simulation and by theory; it determines the number of lookups.",
    )

    def check(self) -> None:
        """Check settings that depend on each other."""
        living = (1 - max(self.dead)) * 2**self.bits
        if living < _FEWEST_LIVING:
            raise ValueError(
                f"some {living:.1f} of 2^{self.bits} nodes would live; set bits to more"
            )


def _measure_damage(settings: Damage, seeds: int, progress: Progress) -> Measurement:
    points: list[CheckedValue] = []
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
            # Both values have an error. Only here are the lookups of one network dependent.
            error = math.sqrt((1 + _SHARED_LUCK) * spread / trials)
            band = max(0.02, 3 * error)
            points.append(within(f"k = {k}", dead, measured, expected, band, error))
    return Measurement(points, "expected: Monte Carlo of a greedy walk, contacts drawn one by one")


def _arrivals(bits: int, k: int, dead: float, trials: int, rng: Random) -> float:
    """Return the fraction of lookups that reach their target, in batches over many networks.

    Theory draws a living pair and then its network, so networks with more pairs have more
    weight. Here a network gets lookups in proportion to its pairs.
    """
    arrived = made = 0
    expected_pairs = (2**bits * (2**bits - 1)) * (1 - dead) ** 2
    while made < trials:
        ids = [number << (ID_BITS - bits) for number in range(1 << bits)]
        gone = [number for number in ids if rng.random() < dead]
        overlay = IdealOverlay(ids, DhtSettings(k=k), rng, dead=gone, with_replacement=True)
        living = sorted(set(ids) - overlay.dead)
        wanted = _PER_NETWORK * len(living) * (len(living) - 1) / expected_pairs
        for _ in range(math.floor(wanted + rng.random())):
            source, target = rng.sample(living, 2)
            arrived += _reaches(overlay, source, target)
            made += 1
    return arrived / made


def _reaches(overlay: IdealOverlay, source: int, target: int) -> bool:
    """Tell whether greedy routing arrives. With a shortlist of one, a lookup never goes back."""
    lookup = overlay.look_up(source, target, greedy(1), only_nearer=True)
    drive(lookup, lambda query: overlay.answer(query, 1), until=as_id(target))
    return LookupInspection(lookup).hops_to(as_id(target)) is not None


E5 = Experiment(
    "E5",
    "Hops with one contact a bucket",
    "log2(N)/2 ±3 % (or 3 standard errors)",
    "nodes",
    "mean hops",
    SingleHops(),
    SingleHops(nodes=(256, 1024, 4096), lookups=4000),
    _measure_log,
)
E6 = Experiment(
    "E6",
    "Hops with k contacts a bucket",
    "independent Monte Carlo ±5 % (or 3 standard errors)",
    "nodes",
    "mean hops",
    Hops(),
    Hops(nodes=(256, 1024), k=(8, 20), lookups=500),
    _measure_hops,
)
E7 = Experiment(
    "E7",
    "Static resilience: dead nodes, no repair",
    "independent Monte Carlo ±0.02 (or 3 standard errors)",
    "share of dead nodes",
    "share of greedy lookups that arrive",
    Damage(),
    Damage(k=(1, 4), dead=(0.5,), error=0.006),
    _measure_damage,
)
