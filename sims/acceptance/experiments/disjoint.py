"""E11: disjoint paths among malicious nodes that name only each other."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from random import Random
from typing import Final

from overlay.dht.inspection import LookupInspection
from overlay.dht.lookup import Lookup, Query
from overlay.dht.messages import Contact, Contacts
from overlay.dht.settings import DhtSettings
from overlay.settings import Settings, many, number, setting, whole
from sims.acceptance.experiment import Experiment, Measurement, Progress
from sims.acceptance.experiment_result import CheckedValue, within
from sims.acceptance.experiments.ideal import IdealOverlay, as_id, contact_of, random_ids
from sims.acceptance.theory import disjoint_paths

__all__ = ["E11"]

_OVERLAYS: Final = 4
_PER_DRAW: Final = 10
"""Lookups per draw of the malicious nodes. Many draws average out how one of them falls."""

_INVENTED: Final = 1 << 40
"""Malicious nodes name ids within 2^40 of the target, nearer than any honest node."""


@dataclass(frozen=True, slots=True)
class DisjointLookups(Settings):
    """E11: lookups by honest nodes over ``paths`` disjoint paths, with one call at a time each.

    ``k`` is the capacity of a bucket and the number of contacts in an answer.
    """

    nodes: int = setting(4000, whole(50, 100_000), "Number of nodes.")
    k: int = setting(8, whole(1, 64), "Capacity of a bucket, and contacts in an answer.")
    malicious: tuple[float, ...] = setting(
        (0.1, 0.2, 0.3), many(number(0, 0.9)), "Fractions of malicious nodes."
    )
    paths: tuple[int, ...] = setting(
        (1, 2, 4, 8), many(whole(1, 16)), "Numbers of disjoint paths of a lookup."
    )
    lookups: int = setting(4000, whole(100, 10_000_000), "Lookups for each combination.")

    def check(self) -> None:
        """Check settings that depend on each other."""
        if max(self.paths) > self.k:
            raise ValueError(f"paths must not exceed k, which is {self.k}")


def _measure(settings: DisjointLookups, seeds: int, progress: Progress) -> Measurement:
    points: list[CheckedValue] = []
    lengths: list[int] = []
    overlays = [
        IdealOverlay(random_ids(settings.nodes, rng), DhtSettings(k=settings.k), rng)
        for rng in (Random(f"E11 overlay {number}") for number in range(_OVERLAYS))
    ]
    for malicious in settings.malicious:
        for count in settings.paths:
            progress(f"E11: {malicious:.0%} malicious, {count} paths")
            rng = Random(f"E11 {seeds} {malicious} {count}")
            reached, runs = _runs(settings, overlays, malicious, count, rng)
            lengths += [length for run in runs for length in run]
            expected = disjoint_paths.mean_disjoint_path_success(malicious, runs)
            error = (expected * (1 - expected) / len(reached)) ** 0.5
            measured = sum(reached) / len(reached)
            band = max(0.03, 3 * error)
            points.append(within(f"f = {malicious}", count, measured, expected, band, error))
    mean = sum(lengths) / len(lengths)
    return Measurement(points, f"expected from the measured path lengths, {mean:.2f} on average")


def _runs(
    settings: DisjointLookups,
    overlays: list[IdealOverlay],
    malicious: float,
    count: int,
    rng: Random,
) -> tuple[list[bool], list[list[int]]]:
    """Return, per lookup, whether it reached its target, and the lengths of its paths.

    The lengths are those of the same lookup without malicious nodes.
    """
    dht = DhtSettings(k=settings.k, alpha=count, disjoint_paths=count, lookup_max_queries=2000)
    reached: list[bool] = []
    runs: list[list[int]] = []
    for batch in range(max(1, settings.lookups // _PER_DRAW)):
        overlay = overlays[batch % len(overlays)]
        ids = list(overlay.contacts)
        liars = frozenset(number for number in ids if rng.random() < malicious)
        honest = [number for number in ids if number not in liars]
        for _ in range(_PER_DRAW):
            source, target = rng.sample(honest, 2)
            lengths = _Paths(overlay, source, target, dht, frozenset()).walk()
            if lengths:  # otherwise the source knows the target, so there is no path to attack
                runs.append(lengths)
                reached.append(bool(_Paths(overlay, source, target, dht, liars).walk()))
    if not reached:
        raise ValueError("every target is a contact of its source; take more nodes")
    return reached, runs


class _Paths:
    """One lookup, of which each path is followed until it finds the target.

    The product's lookup decides which path asks which node, and in which order. It does not
    get the target as a contact, because only one path may ask a node and the others would stop.
    """

    def __init__(
        self,
        overlay: IdealOverlay,
        source: int,
        target: int,
        settings: DhtSettings,
        liars: frozenset[int],
    ) -> None:
        self._overlay = overlay
        self._target = target
        self._liars = liars
        self._path_count = settings.disjoint_paths
        start = [
            contact
            for contact in overlay.table(source).closest(as_id(target), settings.k)
            if contact.node_id != as_id(target)
        ]
        self._direct = as_id(target) in {c.node_id for c in overlay.table(source)}
        self._lookup = Lookup(as_id(target), as_id(source), start, settings, 0.0)
        self._friends = [
            contact_of(target ^ (index + 1), 1 << 20 | index) for index in range(settings.k)
        ]

    def walk(self) -> list[int]:
        """Run the lookup and return the length of each path that found the target."""
        lengths: list[int] = []
        if self._direct:
            return lengths
        done: set[int] = set()
        asked: dict[int, int] = {}
        pending: deque[Query] = deque(self._lookup.queries(0.0))
        while pending and len(done) < self._path_count:
            query = pending.popleft()
            path = LookupInspection(self._lookup).path_of(query.contact)
            reply = self._reply(query.contact)
            if path in done:
                reply = []
            else:
                asked[path] = asked.get(path, 0) + 1
                if any(contact.node_id == as_id(self._target) for contact in reply):
                    done.add(path)
                    lengths.append(asked[path])
                    reply = []
            self._lookup.answered(query, Contacts(tuple(reply)), 0.0)
            pending.extend(self._lookup.queries(0.0))
        return lengths

    def _reply(self, contact: Contact) -> list[Contact]:
        number = int.from_bytes(contact.node_id, "big")
        if number in self._liars:
            return self._friends
        if number not in self._overlay.contacts:
            return self._friends
        return self._overlay.table(number).closest(as_id(self._target), self._overlay.settings.k)


E11 = Experiment(
    "E11",
    "Disjoint paths among malicious nodes",
    "mean of 1 - prod(1 - (1-f)^i) over the measured path lengths i, ±0.03 (or 3 standard errors)",
    "disjoint paths",
    "share of lookups that reach their target",
    DisjointLookups(),
    DisjointLookups(nodes=1500, malicious=(0.2, 0.3), paths=(1, 4), lookups=800),
    _measure,
)
