"""Make lookups at a given rate and measure each of them.

A source and a published record are drawn at random. The source looks up the key of the record and
requests the record from the nodes nearest to it, as a crawl does for a node that does not answer.
The owner of the record is not asked, because the measure is about stored records.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

from overlay.dht.descriptor import MixDescriptor
from overlay.dht.inspection import LookupInspection
from overlay.dht.lookup import Lookup
from sims.world.engine.keyspace import ID_BITS
from sims.world.participants.machine import Machine
from sims.world.participants.recorder import Recorder

__all__ = ["LookupMeasure"]

_HOUR_S: Final = 3600.0
_ATTEMPTS: Final = 8
_ON_TARGET: Final = 0.25


class LookupMeasure:
    """Start lookups as a Poisson process and record their results."""

    def __init__(self, recorder: Recorder, rng: Random, per_node_hour: float) -> None:
        self._recorder = recorder
        self._rng = rng
        self._rate = per_node_hour / _HOUR_S
        self.target: Machine | None = None
        """Node whose record every fourth lookup requests: the victim of an eclipse."""
        self.results: list[Callable[[bool], None]] = []
        self.started = 0
        self.finished = 0

    def begin(self) -> None:
        """Schedule the first lookup."""
        if self._rate > 0:
            self._plan()

    def _plan(self) -> None:
        world = self._recorder.world
        pause = self._rng.expovariate(self._rate * max(len(world.alive), 1))
        world.heap.at(world.heap.now + round(pause, 6), self._next)

    def _next(self, _one: object, _other: object) -> None:
        self._plan()
        source, owner = self._member(), self._member()
        if self.target is not None and self._rng.random() < _ON_TARGET:
            owner = self.target
        if source is None or owner is None or source is owner:
            return
        self.look_up(source, owner)

    def look_up(self, source: Machine, owner: Machine) -> None:
        """Let ``source`` look up the record of ``owner`` now."""
        if source.dht is None:
            return
        self.started += 1
        _Probe(self, self._recorder, source, owner)
        source.flush()

    def place_of(self, owner: Machine) -> str:
        """Return the relation of an owner to the eclipsed node: ``target``, ``beside`` or neither.

        An owner is ``beside`` if it is within twice the distance that holds k nodes. The
        adversary's ids are among the nearest of all these keys, so an alarm there is not false.
        """
        if self.target is None:
            return ""
        if owner is self.target:
            return "target"
        world = self._recorder.world
        reach = 2 * world.settings.k * (1 << ID_BITS) // max(len(world.alive), 1)
        return "beside" if owner.number ^ self.target.number < reach else ""

    def _member(self) -> Machine | None:
        """Return a random honest member, or None if several draws found none."""
        world = self._recorder.world
        for _ in range(_ATTEMPTS):
            if not len(world.alive):
                return None
            machine = world.by_number[world.alive.draw(self._rng)]
            view = machine.inspection
            if machine.honest and view is not None and view.joined:
                return machine
        return None


class _Probe:
    """One lookup under way."""

    __slots__ = ("_began", "_lookup", "_measure", "_owner", "_recorder", "_sequence", "_source")

    def __init__(
        self, measure: LookupMeasure, recorder: Recorder, source: Machine, owner: Machine
    ) -> None:
        self._measure = measure
        self._recorder = recorder
        self._source = source
        self._owner = owner
        self._began = recorder.world.heap.now
        self._sequence = owner.descriptor.sequence if owner.descriptor is not None else 0
        self._lookup: Lookup | None = None
        view = source.inspection
        if view is not None:
            view.probe(owner.node_id, self._began, self._walked)

    def _walked(self, lookup: Lookup, now: float) -> None:
        self._lookup = lookup
        view = self._source.inspection
        if view is None:
            return
        found = lookup.closest()
        self._recorder.add(
            "eclipse_alarm", float(view.suspects(lookup, now)), self._measure.place_of(self._owner)
        )
        self._judge(lookup, [int.from_bytes(contact.node_id, "big") for contact in found])
        holders = [contact for contact in found if contact.node_id != self._owner.node_id]
        view.fetch(self._owner.node_id, holders, now, self._fetched)

    def _judge(self, lookup: Lookup, found: list[int]) -> None:
        """Compare the result with the state of the overlay at this moment."""
        world, add = self._recorder.world, self._recorder.add
        source = self._source.number
        truth = [n for n in world.alive.closest(self._owner.number, world.settings.k + 1)
                 if n != source][: world.settings.k]  # fmt: skip
        if truth:
            add("lookup_closest_share", len(set(found) & set(truth)) / len(truth))
        if found:
            add("lookup_dead_share", sum(not world.is_online(n) for n in found) / len(found))
            nearest = world.by_number.get(found[0])
            hops = (
                LookupInspection(lookup).hops_to(nearest.node_id) if nearest is not None else None
            )
            if hops is not None:
                add("lookup_hops", hops + 1)
        add("lookup_queries", lookup.asked)
        if self._owner is self._measure.target:
            others = [world.by_number[n] for n in found if n != self._owner.number]
            add("eclipse_success", float(not any(machine.honest for machine in others)))

    def _fetched(self, descriptor: MixDescriptor | None, _asked: int) -> None:
        world = self._recorder.world
        self._measure.finished += 1
        success = descriptor is not None
        for told in self._measure.results:
            told(success)
        self._recorder.add("lookup_success", float(success))
        self._recorder.add("lookup_latency_s", world.heap.now - self._began)
        if descriptor is not None:
            # A record that its owner never published is forged.
            owner_signed = descriptor.encoded in self._owner.signed
            self._recorder.add("forged_accepted", float(not owner_signed))
            old = descriptor.sequence < self._sequence
            self._recorder.add("replayed_accepted", float(old))
        world.network.digest.note(world.heap.now, f"lookup {self._source.index} {success:d}")
