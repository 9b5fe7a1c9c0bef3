"""Probe the own circuits of this node for large packets, if its backend needs to know it."""

from __future__ import annotations

import math
from random import Random

from overlay.apm.circuit_size_search import CircuitSizeSearch
from overlay.apm.circuit_table import OpenCircuit
from overlay.apm.control import SizeProbed
from overlay.apm.events import ApmDrop, CircuitSized
from overlay.apm.switchboard import Switchboard
from overlay.apm.takeover import to_hop

__all__ = ["SourceSizes"]


class SourceSizes:
    """Sends the probes of each circuit and emits what they prove; each circuit has its search."""

    def __init__(self, switchboard: Switchboard, rng: Random, packet_bytes: int | None) -> None:
        """Prepare; ``packet_bytes`` is the size of inner packets, or None to probe nothing."""
        self._board = switchboard
        self._rng = rng
        self._packet_bytes = packet_bytes

    def search(self, now: float) -> CircuitSizeSearch | None:
        """Return the search of a new circuit, None if circuits are not probed."""
        return CircuitSizeSearch(self._packet_bytes, now) if self._packet_bytes else None

    def probe(self, circuit: OpenCircuit, now: float) -> float:
        """Send the SIZE PROBE that is due, if any; return when the next one is."""
        search = circuit.size
        if search is None:
            return math.inf
        was_proved = search.proved
        probes = search.probes(self._rng, now)
        self._board.send(to_hop(circuit, len(circuit.path), probe) for probe in probes)
        if was_proved != search.proved:
            self._board.emit(CircuitSized(circuit.number))
        return search.deadline

    def answered(self, circuit: OpenCircuit, message: SizeProbed, now: float) -> bool:
        """Process an answer; return False if it came too late to prove something."""
        if circuit.size is None or not circuit.size.answered(message, now):
            self._board.count(ApmDrop.LATE)
            return False
        self._board.emit(CircuitSized(circuit.number))
        return True
