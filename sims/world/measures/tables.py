"""Measure routing tables and records with knowledge of the whole overlay."""

from __future__ import annotations

from random import Random
from typing import Final

from overlay.dht.inspection import DhtInspection
from sims.metrics import DEEPEST_BUCKET
from sims.world.engine.keyspace import ID_BITS
from sims.world.participants.machine import Machine
from sims.world.participants.recorder import Recorder

__all__ = ["RecordMeasure", "TableMeasure", "online_sample"]

_NODES_SAMPLED: Final = 100
"""The standard error of such a sample is a tenth of the deviation between nodes. A scan of all
nodes would take longer than the simulation itself."""


def online_sample(
    recorder: Recorder, rng: Random, count: int
) -> list[tuple[Machine, DhtInspection]]:
    """Return up to ``count`` honest machines that are on-line, drawn at random."""
    world = recorder.world
    honest = [number for number in world.alive if world.by_number[number].honest]
    chosen = honest if len(honest) <= count else rng.sample(honest, count)
    machines = [world.by_number[number] for number in chosen]
    return [(each, DhtInspection(each.dht)) for each in machines if each.dht is not None]


class TableMeasure:
    """Measure size, departed contacts and knowledge of near nodes, for a sample of members."""

    def __init__(self, recorder: Recorder, rng: Random) -> None:
        self._recorder = recorder
        self._rng = rng

    def sample(self) -> None:
        """Record the means over the sampled members, and the fill of each bucket."""
        alive = self._recorder.world.alive
        k = self._recorder.world.settings.k
        contacts, stale, known = [], [], []
        buckets = [0] * DEEPEST_BUCKET
        members = [
            (machine, view)
            for machine, view in online_sample(self._recorder, self._rng, _NODES_SAMPLED)
            if view.joined
        ]
        for machine, view in members:
            numbers = [int.from_bytes(contact.node_id, "big") for contact in view.contacts()]
            dead = sum(number not in alive for number in numbers)
            contacts.append(len(numbers))
            stale.append(dead / len(numbers) if numbers else 0.0)
            known.append(_known_share(machine, set(numbers), alive.closest(machine.number, k + 1)))
            for number in numbers:
                bit = ID_BITS - (number ^ machine.number).bit_length()
                buckets[min(bit, DEEPEST_BUCKET - 1)] += 1
        if not members:
            return
        for metric, values in (
            ("table_contacts", contacts),
            ("table_stale_share", stale),
            ("neighbours_known", known),
        ):
            self._recorder.add(metric, sum(values) / len(values))
        for bit, total in enumerate(buckets):
            if total:
                self._recorder.add("bucket_fill", total / len(members), f"bucket-{bit}")


def _known_share(machine: Machine, known: set[int], nearest: list[int]) -> float:
    others = [number for number in nearest if number != machine.number]
    return sum(number in known for number in others) / len(others) if others else 1.0


class RecordMeasure:
    """Measure how many nodes on line hold the records of nodes on line."""

    def __init__(self, recorder: Recorder, rng: Random) -> None:
        self._recorder = recorder
        self._rng = rng

    def sample(self) -> None:
        """Inspect the stores of the 2 k nodes nearest to each sampled record."""
        world = self._recorder.world
        holders = []
        for machine, view in online_sample(self._recorder, self._rng, _NODES_SAMPLED):
            if not view.joined:
                continue
            nearest = world.alive.closest(machine.number, 2 * world.settings.k)
            views = [world.by_number[number].inspection for number in nearest]
            holders.append(
                sum(
                    each is not None and each.holds(machine.node_id, world.heap.now) is not None
                    for each in views
                )
            )
        if holders:
            self._recorder.add("record_holders", sum(holders) / len(holders))
            self._recorder.add("record_survival", sum(map(bool, holders)) / len(holders))
