"""Keeps a standby circuit ready for each open path (:mod:`overlay.apm.standby`)."""

from __future__ import annotations

import math
from random import Random
from typing import Final

from overlay.apm.events import (
    ApmEvent,
    CircuitClosed,
    CircuitFailed,
    CircuitLost,
    CircuitMoved,
    CircuitStandsBy,
)
from overlay.errors import InternalError, OverlayError
from overlay.logs import EventLog
from overlay.paths.mix_choice import MixChoice
from overlay.paths.path_services import StandbyService
from overlay.paths.requested_path import PathState, RequestedPath, Standby

__all__ = ["StandbyKeeper"]

_log = EventLog(__name__)

_FIRST_WAIT_S: Final = (0.5, 2.0)
"""Drawn for each circuit, so that the time between two onions does not show that they have one
source."""

_WAITS_S: Final = (1.0, 5.0, 15.0, 60.0)
"""Waits before further attempts; the last one repeats."""

_LASTING_S: Final = 300.0
"""If a standby takes over sooner, the next standby waits longer. Otherwise an exit that does not
answer could cause new relays and new first hops every few seconds, until some belong to it."""


class StandbyKeeper:
    """Keeps the ``standby`` of every path; it requests one circuit at a time for a path."""

    def __init__(self, circuits: StandbyService, choice: MixChoice, rng: Random) -> None:
        """Prepare."""
        self._circuits = circuits
        self._choice = choice
        self._rng = rng
        self._by_circuit: dict[int, RequestedPath] = {}

    def path_opened(self, path: RequestedPath, now: float) -> None:
        """Request a standby soon, if this path can have one.

        A path of one hop has no relay that could be replaced. The same holds if the user named all
        relays.
        """
        path.served_since, path.hasty = now, 0
        self._have_one_soon(path, now)

    def path_left_its_circuit(self, path: RequestedPath) -> None:
        """Forget the standby, which ends together with its primary circuit."""
        if path.standby.circuit is not None:
            self._by_circuit.pop(path.standby.circuit, None)
        path.standby = Standby()

    def handle(self, event: ApmEvent, now: float) -> None:
        """Process an event of a standby circuit."""
        match event:
            case CircuitStandsBy(circuit):
                path = self._by_circuit.get(circuit)
                if path is not None:
                    path.standby.ready, path.standby.failures = True, 0
                    _log.debug("path.standby_ready", path=path.number, circuit=circuit)
            case CircuitFailed(circuit=circuit) | CircuitLost(circuit=circuit):
                self._ended(circuit, now)
            case CircuitClosed(circuit=circuit):
                self._ended(circuit, now)

    def took_over(self, path: RequestedPath, event: CircuitMoved, now: float) -> None:
        """Make the standby the circuit of its path, and request another standby soon."""
        if event.to != path.standby.circuit:
            raise InternalError("a circuit that did not stand by for a path took over")
        del self._by_circuit[event.to]
        path.circuit, path.mix_path = event.to, path.standby.mix_path
        path.takeovers += 1
        path.hasty = path.hasty + 1 if now < path.served_since + _LASTING_S else 0
        path.served_since = now
        self._have_one_soon(path, now)

    def handle_deadline(self, path: RequestedPath, now: float) -> None:
        """Request the standby of a path, if it is due."""
        if path.standby.retry_at > now:
            return
        path.standby.retry_at = math.inf
        if path.state is not PathState.OPEN or path.circuit is None:
            return
        try:
            mix_path = self._choice.select_standby(path, now)
            circuit = self._circuits.stand_by(path.circuit, mix_path, now)
        except InternalError:
            raise
        except OverlayError:  # too few Mix-nodes or no place: the path continues without a standby
            path.avoid = frozenset()
            self._later(path, now)
            return
        _log.debug("path.standby_asked", path=path.number, circuit=circuit)
        path.standby.circuit, path.standby.mix_path = circuit, mix_path
        self._by_circuit[circuit] = path

    def _have_one_soon(self, path: RequestedPath, now: float) -> None:
        if path.hops < 2 or len(path.via) >= path.hops - 1:
            return
        wait_s = self._rng.uniform(*_FIRST_WAIT_S)
        if path.hasty:
            wait_s = max(wait_s, _WAITS_S[min(path.hasty, len(_WAITS_S)) - 1])
        path.standby = Standby(retry_at=now + wait_s)

    def _ended(self, circuit: int, now: float) -> None:
        path = self._by_circuit.pop(circuit, None)
        if path is not None:
            self._later(path, now)

    def _later(self, path: RequestedPath, now: float) -> None:
        failures = path.standby.failures
        _log.debug("path.no_standby", path=path.number, attempt=failures + 1)
        wait_s = _WAITS_S[min(failures, len(_WAITS_S) - 1)]
        path.standby = Standby(failures=failures + 1, retry_at=now + wait_s)
