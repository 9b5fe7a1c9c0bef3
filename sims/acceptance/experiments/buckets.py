"""E3 and E4: the fill of buckets, and how many nodes know their whole neighbourhood."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Final

from overlay.dht.settings import DhtSettings
from overlay.settings import Settings, many, number, setting, whole
from sims.acceptance.experiment import Experiment, Measurement, Progress, told
from sims.acceptance.experiment_result import CheckedValue, within
from sims.acceptance.experiments.worlds import bucket_counts, joined_world, known_neighbours
from sims.acceptance.theory import tables
from sims.scenario.parameters import Parameters
from sims.scenario.scenario import Scenario
from sims.scenario.sections import Churn
from sims.scenario.values import LINE
from sims.world.churn import parse_model
from sims.world.run import Simulation

__all__ = ["E3", "E4"]

_LIVE_KNOWS_ALL: Final = 0.6109
_LIVE_K: Final = 20
"""Fraction of IPFS nodes that know their 20 closest (28 crawls, rfm19-dht-routing-table-health)."""

_SMALLEST_BUCKET: Final = 2.4
_LARGE: Final = 10_000
"""From this size on, one network is enough, because each node is a sample."""


@dataclass(frozen=True, slots=True)
class Fill(Settings):
    """E3: overlays of ``nodes`` nodes that joined one after the other, without churn."""

    nodes: tuple[int, ...] = setting(
        (1000, 10_000), many(whole(20, 100_000)), "Numbers of nodes that join one after the other."
    )
    k: int = setting(20, whole(3, 64), "Contacts in a bucket.")


def _measure_fill(settings: Fill, seeds: int, progress: Progress) -> Measurement:
    points: list[CheckedValue] = []
    for nodes in settings.nodes:
        runs = 1 if nodes >= _LARGE else seeds
        totals: Counter[int] = Counter()
        for seed in range(runs):
            progress(f"E3: {nodes} nodes join, seed {seed + 1}")
            world = joined_world(nodes, seed, DhtSettings(k=settings.k), progress)
            for machine in world.machines:
                totals.update(bucket_counts(machine))
        points += told("E3", _fill_points(settings.k, nodes, runs, totals), progress)
    return Measurement(points, "buckets with fewer than 2.4 expected contacts are left out")


def _fill_points(k: int, nodes: int, runs: int, totals: Counter[int]) -> list[CheckedValue]:
    points: list[CheckedValue] = []
    for bucket in range(math.ceil(math.log2(nodes))):
        expected = tables.bucket_occupancy(nodes, bucket, k)
        if expected < _SMALLEST_BUCKET:
            break
        # The number of node pairs in a bucket is a Poisson variable, which gives the deviation
        # of one network from the mean of all networks. A full bucket does not deviate.
        pairs = runs * nodes * expected / 2
        error = expected / math.sqrt(pairs) if expected < 0.98 * k else 0.0
        measured = totals[bucket] / (nodes * runs)
        low, high = 0.92 * expected - 3 * error, 1.02 * expected + 3 * error
        points.append(CheckedValue(f"N = {nodes}", bucket, measured, expected, low, high, error))
    return points


@dataclass(frozen=True, slots=True)
class Knowledge(Settings):
    """E4: overlays as in E3 and, unless it is 0, one of ``churn_nodes`` nodes under ``churn``."""

    nodes: tuple[int, ...] = setting(
        (2000, 15_371), many(whole(20, 100_000)), "Numbers of nodes that join one after the other."
    )
    k: int = setting(20, whole(3, 64), "Contacts in a bucket.")
    churn: str = setting("ipfs2022", LINE, "Session model of the overlay under churn.")
    churn_nodes: int = setting(
        2000, whole(0, 100_000), "Nodes of the overlay under churn; 0 leaves it out."
    )
    churn_hours: float = setting(6.0, number(0.01, 1000, "hours"), "Simulated hours under churn.")

    def check(self) -> None:
        """Check settings that depend on each other."""
        if min(self.nodes) < 2 * self.k:
            raise ValueError(f"nodes must be at least twice k, so {2 * self.k}")
        online = self.churn_nodes * parse_model(self.churn).availability()
        if self.churn_nodes and online < 2 * self.k:
            raise ValueError(
                f"of {self.churn_nodes} churn_nodes some {online:.0f} would be on-line, and twice "
                "k are needed; set churn_nodes to more, or to 0"
            )


def _measure_knowledge(settings: Knowledge, seeds: int, progress: Progress) -> Measurement:
    points: list[CheckedValue] = []
    for nodes in settings.nodes:
        runs = 1 if nodes >= _LARGE else seeds
        known: list[int] = []
        for seed in range(runs):
            progress(f"E4: {nodes} nodes join, seed {seed + 1}")
            world = joined_world(nodes, seed, DhtSettings(k=settings.k), progress)
            known += [known_neighbours(world, machine) for machine in world.machines]
        points += told("E4", _knowledge_points(settings.k, nodes, known), progress)
    if settings.churn_nodes:
        points.append(_under_churn(settings, progress))
    return Measurement(points, f"live IPFS nodes that know all 20: {_LIVE_KNOWS_ALL}")


def _knowledge_points(k: int, nodes: int, known: list[int]) -> list[CheckedValue]:
    points = []
    for curve, least in ((f"all {k} known", k), (f"fewer than {k - 2} known", k - 2)):
        share = tables.neighbourhood_knowledge(nodes, k, least)
        measured = sum(one >= least for one in known) / len(known)
        if least < k:
            share, measured = 1 - share, 1 - measured
        # Near nodes share the boundary of their neighbourhood. So a network has about one
        # independent sample per k nodes.
        error = math.sqrt(share * (1 - share) * k / len(known))
        points.append(within(curve, nodes, measured, share, max(0.03, 3 * error), error))
    return points


def _under_churn(settings: Knowledge, progress: Progress) -> CheckedValue:
    nodes = settings.churn_nodes
    progress(f"E4: {nodes} nodes under {settings.churn} for {settings.churn_hours:g} h")
    scenario = Scenario(
        name="accept-e4",
        nodes=nodes,
        duration_s=settings.churn_hours * 3600,
        warm_up_s=0.0,
        lookups_per_hour=0.0,
        sample_interval_s=3600.0,
        seeds=(1,),
        churn=Churn(settings.churn),
        dht=Parameters({"k": settings.k}),
    )
    simulation = Simulation(scenario, 1)
    simulation.run()
    world = simulation.world
    members = [m for m in world.machines if m.inspection is not None and m.inspection.joined]
    if len(members) <= settings.k:
        raise ValueError(f"{len(members)} nodes were on-line at the end; set churn_nodes to more")
    share = sum(known_neighbours(world, m) >= settings.k for m in members) / len(members)
    ideal = tables.neighbourhood_knowledge(len(members), settings.k, settings.k)
    error = math.sqrt(ideal * (1 - ideal) * settings.k / len(members))
    # The published figure is for 20 nodes. For k nodes, the probability per node is the same.
    live = _LIVE_KNOWS_ALL ** (settings.k / _LIVE_K)
    low, high = min(live, ideal - 3 * error), min(1.0, ideal + max(0.03, 3 * error))
    curve = f"all {settings.k} known, {settings.churn}"
    return CheckedValue(curve, nodes, share, None, low, high, error)


E3 = Experiment(
    "E3",
    "Bucket fill after bootstrap and one refresh",
    "+2 % to -8 % of E[min(Bin(N-1, 2^-(i+1)), k)], and 3 standard errors of one network",
    "bucket (leading bits shared)",
    "contacts",
    Fill(),
    Fill(nodes=(250,)),
    _measure_fill,
)
E4 = Experiment(
    "E4",
    "Knowledge of the own neighbourhood",
    "±0.03 (or 3 standard errors) without churn; under churn between live IPFS and ideal",
    "nodes",
    "share of nodes",
    Knowledge(),
    Knowledge(nodes=(250,), churn_nodes=150, churn_hours=0.5),
    _measure_knowledge,
)
