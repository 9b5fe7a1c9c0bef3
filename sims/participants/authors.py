"""Records that are published once: machines that come, publish, and never return."""

from __future__ import annotations

from typing import Final

from sims.measures.recorder import Recorder
from sims.participants.machine import Machine

__all__ = ["Authors"]

_STAY_S: Final = 90.0
"""Long enough to join and to store; the next publication would come a minute after the first."""


class Authors:
    """Owner of the machines whose records are followed; each lives for a minute and a half."""

    def __init__(self, recorder: Recorder, count: int, leave_at_s: float) -> None:
        self._recorder = recorder
        self._count = count
        self._leave_at_s = leave_at_s
        self._gone: list[Machine] = []

    def plan(self) -> None:
        """Let the authors come so that they are gone when the warm-up ends."""
        if not self._count:
            return
        world = self._recorder.world
        start = world.heap.now - world.time_s
        for number in range(self._count):
            machine = world.add()
            arrives = max(0.0, self._leave_at_s - _STAY_S) + round(number / self._count, 6)
            world.heap.at(start + arrives, self._arrive, machine)
            world.heap.at(start + arrives + _STAY_S, self._leave, machine)

    def sample(self) -> None:
        """Count the living holders of each record, until it expires."""
        world = self._recorder.world
        now = world.heap.now
        holders = []
        for machine in self._gone:
            if machine.descriptor is None or machine.descriptor.expires <= now:
                continue
            cores = [other.dht for other in world.machines if other.dht is not None]
            holders.append(sum(core.holds(machine.node_id) is not None for core in cores))
        if holders:
            self._recorder.add("record_holders", sum(holders) / len(holders), "once")
            self._recorder.add("record_survival", sum(map(bool, holders)) / len(holders), "once")

    def _arrive(self, machine: Machine, _: object) -> None:
        self._recorder.world.start(machine)

    def _leave(self, machine: Machine, _: object) -> None:
        self._recorder.world.stop(machine)
        self._gone.append(machine)
