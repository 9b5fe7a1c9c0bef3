"""How long it takes a program that starts to be a member."""

from __future__ import annotations

from typing import Final

from overlay.dht.events import DhtEvent, Joined
from sims.measures.recorder import Recorder
from sims.participants.machine import Machine

__all__ = ["JoinMeasure"]

_PATIENCE_S: Final = 120.0


class JoinMeasure:
    """Follows every start. One that is no member after two minutes failed, though it goes on."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._waiting: dict[int, float] = {}
        recorder.world.listeners.append(self._heard)

    def started(self, machine: Machine) -> None:
        """A program starts now."""
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
            return  # it has joined, or has started again since
        del self._waiting[machine.index]
        # A program that ended before its time was up says nothing about joining.
        if machine.online:
            self._recorder.add("join_success", 0.0)
