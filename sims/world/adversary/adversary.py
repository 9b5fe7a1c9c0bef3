"""The adversary of a scenario: all of its attacks, and the machines that it adds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from overlay.addresses import NodeId
from overlay.dht.envelope import Envelopes
from overlay.plugins import load_plugin
from sims.scenario.sections import ATTACKS, Adversary
from sims.world.adversary.attack import Attack, AttackContext
from sims.world.adversary.envelopes import HostileEnvelopes
from sims.world.adversary.knowledge import AdversaryKnowledge
from sims.world.participants.machine import NETWORK_ID, Machine
from sims.world.participants.protocols import WorldAdversary
from sims.world.participants.recorder import Recorder
from sims.world.participants.world import World

__all__ = ["AdversaryMeasure", "ScenarioAdversary"]

_JOIN_OVER_S: Final = 60.0
"""Interval after the start in which additional malicious machines join one by one, in seconds."""


class ScenarioAdversary(WorldAdversary):
    """The attacks that a scenario names, and what they share.

    Raises:
        ConfigurationError: no attack has such a name.
    """

    def __init__(self, world: World, settings: Adversary, *, population: int) -> None:
        self._world = world
        self._knowledge = AdversaryKnowledge()
        context = AttackContext(world, settings, self._knowledge, population)
        made: list[tuple[int, str, Attack]] = []
        for name in settings.behaviours:
            attack: Attack = load_plugin(ATTACKS, name)(context)
            made.append((attack.order, name, attack))
        self._attacks = [attack for _, _, attack in sorted(made, key=lambda one: one[:2])]

    @property
    def target(self) -> Machine | None:
        """The machine whose record is attacked."""
        return next((each.target for each in self._attacks if each.target is not None), None)

    @property
    def sybils(self) -> Sequence[Machine]:
        """Machines whose places in honest routing tables are measured."""
        return [machine for each in self._attacks for machine in each.sybils]

    def begin(self, victim: Machine) -> None:
        """Let the additional machines of all attacks join, one after the other."""
        crowd = [machine for attack in self._attacks for machine in attack.begin(victim)]
        heap = self._world.heap
        pause = _JOIN_OVER_S / max(len(crowd), 1)
        for number, machine in enumerate(crowd):
            heap.at(heap.now + round(number * pause, 6), self._join, machine)

    def envelopes(self, machine: Machine, honest: Envelopes) -> Envelopes:
        """Return envelopes that answer as the attacks want."""
        self._knowledge.enlist(machine.contact)
        return HostileEnvelopes(machine.identity, NETWORK_ID, honest, self._attacks)

    def denies(self, node_id: NodeId) -> bool:
        """Tell whether an attack drops a packet of a circuit or link at this node now."""
        return any(attack.denies(node_id) for attack in self._attacks)

    def _join(self, machine: Machine, _: object) -> None:
        self._world.start(machine)


class AdversaryMeasure:
    """Measure the most places that additional malicious identities have in an honest table."""

    def __init__(self, recorder: Recorder, adversary: WorldAdversary) -> None:
        self._recorder = recorder
        self._adversary = adversary

    def sample(self) -> None:
        """Record the largest number over all honest nodes, per table and per bucket."""
        sybils = {machine.node_id for machine in self._adversary.sybils}
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
