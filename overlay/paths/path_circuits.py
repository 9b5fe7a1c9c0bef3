"""Which circuit serves which requested path."""

from __future__ import annotations

import math
from collections.abc import Sequence

from overlay.apm.events import CircuitMoved
from overlay.paths.path_history import circuit_asked
from overlay.paths.path_services import CircuitService
from overlay.paths.protection import Protection
from overlay.paths.requested_path import RequestedPath
from overlay.paths.standby_keeper import StandbyKeeper
from overlay.selection.selector import MixPath

__all__ = ["PathCircuits"]


class PathCircuits:
    """Begins and closes the circuits of paths, one for each path; ``standbys`` has the others.

    ``first_tries`` counts the paths whose first circuit was begun.
    """

    def __init__(
        self, circuits: CircuitService, protection: Protection, standbys: StandbyKeeper | None
    ) -> None:
        self._circuits = circuits
        self._protection = protection
        self._standbys = standbys
        self._by_circuit: dict[int, RequestedPath] = {}
        self.first_tries = 0

    def path_of(self, circuit: int) -> RequestedPath | None:
        """Return the path that a circuit serves, or None."""
        return self._by_circuit.get(circuit)

    def begin_together(
        self, paths: Sequence[RequestedPath], mix_paths: Sequence[MixPath] | None, now: float
    ) -> None:
        """Begin the first circuits of a request; without ``mix_paths``, let all its paths wait.

        Raises:
            OverlayError: a circuit cannot be begun; those before it were begun.
        """
        for path in paths:
            path.waits, path.retry_at = mix_paths is None, math.inf
            if path.waits:
                path.look_again_later(now)
        for path, mix_path in zip(paths, mix_paths or (), strict=False):
            self.begin(path, mix_path, now)
            self.first_tries += 1

    def begin(self, path: RequestedPath, mix_path: MixPath, now: float) -> None:
        """Begin a circuit of a path over these Mix-nodes.

        Raises:
            OverlayError: the circuit cannot be begun.
        """
        circuit = self._circuits.anonymous_connection(mix_path, path.destination, now)
        path.circuit, path.mix_path = circuit, mix_path
        self._by_circuit[circuit] = path
        circuit_asked(path)

    def moved(self, path: RequestedPath, event: CircuitMoved) -> None:
        """Note that the standby circuit serves the path from now on."""
        del self._by_circuit[event.circuit]
        self._by_circuit[event.to] = path

    def close(self, path: RequestedPath, now: float) -> None:
        """Separate a path from its circuit, and close the circuit."""
        circuit = path.circuit
        self.detach(path)
        if circuit is not None:
            self._circuits.close(circuit, now)

    def detach(self, path: RequestedPath) -> None:
        """Separate a path from its circuit, which has ended; its destination stays blocked."""
        address = path.carried_address
        if path.circuit is not None:
            self._by_circuit.pop(path.circuit, None)
        path.circuit, path.inner_addresses, path.opened_at = None, (), None
        if self._standbys is not None:
            self._standbys.path_left_its_circuit(path)
        if address is not None:
            self._protection.uncarry(path.destination, address)
