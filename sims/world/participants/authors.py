"""Machines that join, publish a record once, and leave for good."""

from __future__ import annotations

from overlay.dht.inspection import DhtInspection
from sims.scenario.scenario import AUTHOR_ONLINE_S
from sims.world.participants.machine import Machine
from sims.world.participants.recorder import Recorder

__all__ = ["Authors"]


class Authors:
    """The machines whose records are followed. Each is on line for 90 seconds."""

    def __init__(self, recorder: Recorder, count: int, leave_at_s: float) -> None:
        self._recorder = recorder
        self._count = count
        self._leave_at_s = leave_at_s
        self._gone: list[Machine] = []

    def plan(self) -> None:
        """Schedule the sessions of the authors, so that they end with the warm-up."""
        if not self._count:
            return
        world = self._recorder.world
        start = world.heap.now - world.time_s
        for number in range(self._count):
            machine = world.add()
            arrives = max(0.0, self._leave_at_s - AUTHOR_ONLINE_S) + round(number / self._count, 6)
            world.heap.at(start + arrives, self._arrive, machine)
            world.heap.at(start + arrives + AUTHOR_ONLINE_S, self._leave, machine)

    def sample(self) -> None:
        """Record the number of holders on line of each record, until it expires."""
        world = self._recorder.world
        now = world.heap.now
        holders = []
        for machine in self._gone:
            if machine.descriptor is None or machine.descriptor.expires <= now:
                continue
            views = [DhtInspection(each.dht) for each in world.machines if each.dht is not None]
            holders.append(sum(view.holds(machine.node_id, now) is not None for view in views))
        if holders:
            self._recorder.add("record_holders", sum(holders) / len(holders), "once")
            self._recorder.add("record_survival", sum(map(bool, holders)) / len(holders), "once")

    def _arrive(self, machine: Machine, _: object) -> None:
        self._recorder.world.start(machine)

    def _leave(self, machine: Machine, _: object) -> None:
        self._recorder.world.stop(machine)
        self._gone.append(machine)
