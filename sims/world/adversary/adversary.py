"""Add the adversary of a scenario to a world."""

from __future__ import annotations

from typing import Final

from overlay.addresses import NodeId
from overlay.dht.core import Dht
from sims.scenario.sections import Adversary
from sims.world.adversary.answers import FalseAnswers, HostileEnvelopes
from sims.world.adversary.crowds import identities_near, sybil_endpoint
from sims.world.adversary.knowledge import AdversaryKnowledge
from sims.world.measures.recorder import Recorder
from sims.world.participants.machine import Machine
from sims.world.participants.world import NETWORK_ID, World, own_core

__all__ = ["AdversaryMeasure", "AdversaryNodes"]

_CROWD_OVER_S: Final = 60.0
"""Interval after the start in which additional malicious machines join one by one, in seconds."""


class AdversaryNodes:
    """The knowledge of the adversary, and its additional machines."""

    def __init__(self, world: World, settings: Adversary, *, population: int) -> None:
        self.world = world
        self.plot = AdversaryKnowledge(
            frozenset(settings.behaviours),
            settings.drop_probability,
            world.streams.stream("adversary", "drops"),
        )
        self.target: Machine | None = None
        self.crowd: list[Machine] = []
        self.sybils: list[Machine] = []
        self._settings = settings
        self._population = population
        world.make_core = self._core
        world.denies = self.plot.denies
        world.opening = self.plot.opening

    def begin(self, target: Machine) -> None:
        """Let the additional machines join: Sybils of one /24, and ids near ``target``."""
        settings, world = self._settings, self.world
        if "sybil" in settings.behaviours:
            self.sybils = [
                world.add(sybil_endpoint(number), honest=False) for number in range(settings.sybils)
            ]
            self.crowd += self.sybils
        if "eclipse" in settings.behaviours:
            self.target = target
            found = identities_near(
                target.node_id,
                settings.eclipse_ids,
                self._population,
                world.streams.stream("adversary", "search"),
            )
            self.crowd += [world.add(honest=False, identity=identity) for identity in found]
        pause = _CROWD_OVER_S / max(len(self.crowd), 1)
        for number, machine in enumerate(self.crowd):
            world.heap.at(world.heap.now + round(number * pause, 6), self._join, machine)

    def _join(self, machine: Machine, _: object) -> None:
        self.world.start(machine)

    def _core(self, world: World, machine: Machine) -> Dht:
        if machine.honest:
            return own_core(world, machine)
        self.plot.enlist(machine.contact)
        honest = world.carrier.envelopes(machine.identity, NETWORK_ID)
        answers = FalseAnswers(self.plot, self._record_of, machine.node_id, world.settings.k)
        hostile = HostileEnvelopes(machine.identity, NETWORK_ID, honest, answers)
        return own_core(world, machine, envelopes=hostile)

    def _record_of(self, key: NodeId) -> bytes | None:
        machine = self.world.by_number.get(int.from_bytes(key, "big"))
        descriptor = machine.descriptor if machine is not None else None
        return descriptor.encoded if descriptor is not None else None


class AdversaryMeasure:
    """Measure the most places that additional malicious identities have in an honest table."""

    def __init__(self, recorder: Recorder, conspiracy: AdversaryNodes) -> None:
        self._recorder = recorder
        self._conspiracy = conspiracy

    def sample(self) -> None:
        """Record the largest number over all honest nodes, per table and per bucket."""
        sybils = {machine.node_id for machine in self._conspiracy.sybils}
        if not sybils:
            return
        in_table = in_bucket = 0
        for machine in self._recorder.world.machines:
            if machine.inspection is None or not machine.honest:
                continue
            counts = [
                sum(contact.node_id in sybils for contact in bucket)
                for bucket in machine.inspection.buckets()
            ]
            in_table = max(in_table, sum(counts))
            in_bucket = max(in_bucket, max(counts, default=0))
        self._recorder.add("table_sybils_max", in_table)
        self._recorder.add("bucket_sybils_max", in_bucket)
