"""E10: lookups and records directly after many nodes have failed without leaving."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from statistics import fmean, quantiles

from overlay.dht.descriptor import MixDescriptor
from overlay.dht.lookup import Lookup
from overlay.dht.settings import DhtSettings
from overlay.settings import Settings, number, setting, whole
from sims.acceptance.experiment import Experiment, Measurement, Progress
from sims.acceptance.experiment_result import CheckedValue
from sims.acceptance.experiments.worlds import new_world, pass_time
from sims.world.participants.machine import Machine
from sims.world.participants.world import World

__all__ = ["E10"]

_SPREAD_S = 5.0
_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Death(Settings):
    """E10: ``nodes`` with ideal tables and records, of which a fraction ``dead`` fails at once.

    Then each node of a sample looks up the record of a living node. It makes one lookup only,
    so that no lookup profits from an earlier one. The limits are set for 30 % failed nodes.
    """

    nodes: int = setting(500, whole(20, 100_000), "Number of nodes.")
    dead: float = setting(0.3, number(0, 0.9), "Fraction of the nodes that fail at once.")
    k: int = setting(20, whole(1, 64), "Contacts in a bucket and holders of a record.")
    lookups: int = setting(100, whole(2, 100_000), "Nodes that make one lookup each.")
    p50_s: float = setting(
        2.0, number(0, 60, "seconds"), "Largest permitted median time of a lookup."
    )
    closest: float = setting(
        0.95,
        number(0, 1),
        "Least permitted fraction of lookups that find the nearest living nodes.",
    )
    dead_in_result: float = setting(
        0.01, number(0, 1), "Largest permitted fraction of failed nodes in results."
    )
    found: float = setting(
        0.99, number(0, 1), "Least permitted fraction of lookups that find the record."
    )

    def check(self) -> None:
        """Check settings that depend on each other."""
        living = self.nodes - round(self.dead * self.nodes)
        if living < self.k + 2:
            raise ValueError(
                f"{living} nodes would live, and {self.k + 2} are needed; set nodes to more"
            )


@dataclass(slots=True)
class _Outcomes:
    """The results of the lookups of all seeds."""

    seconds: list[float] = field(default_factory=list)
    closest: list[float] = field(default_factory=list)
    dead: list[float] = field(default_factory=list)
    found: list[float] = field(default_factory=list)


class _Probe:
    """One lookup and the retrieval that follows it."""

    def __init__(self, world: World, source: Machine, owner: Machine, into: _Outcomes) -> None:
        self._world = world
        self._source = source
        self._owner = owner
        self._into = into
        self._began = world.heap.now

    def start(self) -> None:
        self._began = self._world.heap.now
        view = self._source.inspection
        if view is not None:
            view.probe(self._owner.node_id, self._began, self._walked)
            self._source.flush()

    def _walked(self, lookup: Lookup, now: float) -> None:
        world, into = self._world, self._into
        into.seconds.append(now - self._began)
        numbers = [int.from_bytes(contact.node_id, "big") for contact in lookup.closest()]
        k = world.settings.k
        truth = [n for n in world.alive.closest(self._owner.number, k + 1)
                 if n != self._source.number][:k]  # fmt: skip
        into.closest.append(len(set(numbers) & set(truth)) / len(truth))
        into.dead.append(sum(not world.is_online(n) for n in numbers) / max(1, len(numbers)))
        holders = [c for c in lookup.closest() if c.node_id != self._owner.node_id]
        view = self._source.inspection
        if view is not None:
            view.fetch(self._owner.node_id, holders, now, self._fetched)

    def _fetched(self, descriptor: MixDescriptor | None, _asked: int) -> None:
        self._into.found.append(float(descriptor is not None))


def _measure(settings: Death, seeds: int, progress: Progress) -> Measurement:
    outcomes = _Outcomes()
    expected = 0
    for seed in range(seeds):
        progress(f"E10: {settings.dead:.0%} of {settings.nodes} nodes die, seed {seed + 1}")
        expected += _one_world(settings, seed, outcomes)
    unfinished = expected - len(outcomes.found)
    ordered = sorted(outcomes.seconds)
    p50, p90 = _quantile(ordered, 50), _quantile(ordered, 90)
    points = [
        CheckedValue("lookup p50 (s)", 1, p50, None, 0.0, settings.p50_s),
        CheckedValue("share of the true k closest", 2, fmean(outcomes.closest), None,
              settings.closest, 1.0),
        CheckedValue("dead in the result", 3, fmean(outcomes.dead), None, 0.0,
              settings.dead_in_result),
        CheckedValue("live records found", 4, sum(outcomes.found) / expected, None,
              settings.found, 1.0),
        CheckedValue("lookups that never ended", 5, unfinished, 0.0, 0.0, 0.0),
    ]  # fmt: skip
    return Measurement(points, f"{expected} lookups; p90 {p90:.2f} s")


def _one_world(settings: Death, seed: int, outcomes: _Outcomes) -> int:
    world = new_world(seed, DhtSettings(k=settings.k))
    machines = [world.add() for _ in range(settings.nodes)]
    world.resume(machines)
    rng = Random(f"E10 {seed}")
    for machine in rng.sample(machines, round(settings.dead * settings.nodes)):
        world.stop(machine)
    living = [machine for machine in machines if machine.online]
    sources = rng.sample(living, min(settings.lookups, len(living)))
    for source in sources:
        owner = rng.choice([machine for machine in living if machine is not source])
        probe = _Probe(world, source, owner, outcomes)
        world.heap.at(world.heap.now + rng.random() * _SPREAD_S, _start, probe)
    pass_time(world, _SPREAD_S + _PATIENCE_S)
    return len(sources)


def _start(probe: _Probe, _: object) -> None:
    probe.start()


def _quantile(ordered: Sequence[float], percent: int) -> float:
    return quantiles(ordered, n=100, method="inclusive")[percent - 1]


E10 = Experiment(
    "E10",
    "Lookups directly after a fraction of all nodes has failed",
    "gates, set for 30 % dead: p50 <= 2 s, true k closest >= 0.95, dead in the result <= 1 %, "
    "live records found >= 0.99",
    "1 p50 (s), 2 closest, 3 dead, 4 records found, 5 unfinished",
    "seconds or share",
    Death(),
    Death(lookups=60),
    _measure,
)
