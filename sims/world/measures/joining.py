"""Measure how long a node needs from its start to its membership."""

from __future__ import annotations

from typing import Final

from overlay.dht.events import DhtEvent, Joined
from sims.world.participants.machine import Machine
from sims.world.participants.recorder import Recorder

__all__ = ["JoinMeasure"]

_PATIENCE_S: Final = 120.0


class JoinMeasure:
    """Follow every start of a node. A join fails if it takes longer than two minutes."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._waiting: dict[int, float] = {}
        recorder.world.listeners.append(self._heard)

    def started(self, machine: Machine) -> None:
        """Record that the machine's node starts now."""
        world = self._recorder.world
        began = self._waiting[machine.index] = world.heap.now
        world.heap.at(began + _PATIENCE_S, self._give_up, machine, began)

    def _heard(self, machine: Machine, event: DhtEvent) -> None:
        if isinstance(event, Joined):
            began = self._waiting.pop(machine.index, None)
            if began is not None:
                self._recorder.add("join_success", 1.0)
                self._recorder.add("join_s", self._recorder.world.heap.now - began)

    def _give_up(self, machine: Machine, began: float) -> None:
        if self._waiting.get(machine.index) != began:
            return  # it has joined, or it has started again meanwhile
        del self._waiting[machine.index]
        # A node that stopped before the limit does not count as a failed join.
        if machine.online:
            self._recorder.add("join_success", 0.0)
