"""The anonymous paths that the user asked for, and the circuits that serve them.

A path is a wish that lasts until the user closes it; a circuit is one attempt to serve it.
From the moment of the wish the destination is guarded: its packets may leave through a
circuit or not at all. When a circuit is lost, the path is built anew over other Mix-nodes.

::

    request ──> OPENING ──opened──> OPEN ──lost──> REBUILDING ──opened──> OPEN
                   │ no path             └──────────── close ──────────────> (forgotten)
                   └──> (forgotten, the user is told why)
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

import trio

from overlay.addresses import InnerAddress, IpNetwork, NodeId
from overlay.apm.control import RefuseReason
from overlay.apm.events import CircuitClosed, CircuitFailed, CircuitLost, CircuitOpened
from overlay.dht.topology_table import TopologyTable
from overlay.errors import (
    CircuitRefused,
    CircuitTimedOut,
    ConfigurationError,
    NoSuitablePath,
    PathError,
)
from overlay.selection.selector import MixPath, PathRequest, PathSelector

__all__ = ["CircuitEvent", "CircuitService", "Guard", "PathState", "Paths", "RequestedPath"]

MAX_PATHS = 256
"""Each holds a route, an address and a circuit."""

_FIRST_ATTEMPTS = 4
_REBUILD_WAIT_S = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Waits before each further attempt; the last one repeats."""

CircuitEvent = CircuitOpened | CircuitFailed | CircuitLost | CircuitClosed


class PathState(enum.Enum):
    """What a requested path is doing, in words for the user."""

    OPENING = "opening"
    OPEN = "open"
    REBUILDING = "rebuilding"


class CircuitService(Protocol):
    """What paths need of Anonymous Paths Management."""

    def anonymous_connection(self, path: MixPath, destination: IpNetwork, now: float) -> int:
        """Begin a circuit and return its process-local number."""
        ...

    def close(self, circuit: int, now: float) -> None:
        """Tear a circuit down."""
        ...


class Guard(Protocol):
    """What keeps packets to a destination from leaving outside its circuit."""

    def protect(self, destination: IpNetwork) -> None:
        """From now on packets to ``destination`` leave through a circuit or not at all."""
        ...

    def carry(self, destination: IpNetwork, inner_address: InnerAddress) -> None:
        """Send packets to ``destination`` into the source TUN, with this source address."""
        ...

    def uncarry(self, destination: IpNetwork, inner_address: InnerAddress) -> None:
        """Stop sending them there; they remain protected."""
        ...

    def release(self, destination: IpNetwork) -> None:
        """End the protection."""
        ...


@dataclass(slots=True, eq=False)
class RequestedPath:
    """One path that the user asked for; :class:`Paths` alone changes it."""

    number: int
    destination: IpNetwork
    hops: int
    strategy: str
    via: tuple[NodeId, ...]
    requested_at: float
    state: PathState = PathState.OPENING
    circuit: int | None = None
    mix_path: MixPath | None = None
    inner_addresses: tuple[InnerAddress, ...] = ()
    opened_at: float | None = None
    failures: int = 0
    avoid: frozenset[NodeId] = frozenset()
    retry_at: float = math.inf
    error: PathError | None = None
    settled: trio.Event = field(default_factory=trio.Event)

    @property
    def carried_address(self) -> InnerAddress | None:
        """The inner address of the destination's family."""
        size = 4 if self.destination.version == 4 else 16
        return next((a for a in self.inner_addresses if len(a) == size), None)


class Paths:
    """Owner of every requested path; bounded by ``MAX_PATHS``."""

    def __init__(
        self,
        *,
        circuits: CircuitService,
        guard: Guard,
        table: TopologyTable,
        selector: Callable[[str], PathSelector],
        source: NodeId,
        onion_suite: int,
        esp_suite: int,
        rng: Random,
    ) -> None:
        self._circuits = circuits
        self._guard = guard
        self._table = table
        self._selector = selector
        self._source = source
        self._onion_suite = onion_suite
        self._esp_suite = esp_suite
        self._rng = rng
        self._paths: dict[int, RequestedPath] = {}
        self._by_circuit: dict[int, RequestedPath] = {}
        self._last_number = 0

    def all(self) -> list[RequestedPath]:
        """Return the requested paths, oldest first."""
        return list(self._paths.values())

    def get(self, number: int) -> RequestedPath:
        """Return one path.

        Raises:
            ConfigurationError: there is none of that number.
        """
        path = self._paths.get(number)
        if path is None:
            known = ", ".join(str(n) for n in self._paths) or "none"
            raise ConfigurationError(f"there is no path {number}; open paths: {known}.")
        return path

    def request(
        self,
        destination: IpNetwork,
        *,
        hops: int,
        strategy: str,
        via: tuple[NodeId, ...],
        now: float,
    ) -> RequestedPath:
        """Guard the destination and begin its first circuit (paper, Figure 4).

        Raises:
            ConfigurationError: the destination has a path already, or the strategy is unknown.
            NoSuitablePath: the topology table has no such path.
        """
        path = self._add(destination, hops, strategy, via, now)
        try:
            self._guard.protect(destination)
            self._attempt(path, now)
        except BaseException:
            self._forget(path)
            raise
        return path

    def adopt(self, destination: IpNetwork, *, hops: int, strategy: str, now: float) -> None:
        """Take over a destination that a node which died here had guarded, and rebuild its path."""
        path = self._add(destination, hops, strategy, (), now)
        self._guard.protect(destination)
        path.state = PathState.REBUILDING
        path.retry_at = now

    def close(self, number: int, now: float) -> None:
        """Tear the path's circuit down, then end the guard of its destination."""
        path = self.get(number)
        self._drop_circuit(path, now)
        self._forget(path)
        path.error = PathError("the path was closed while it was being opened.")
        path.settled.set()

    def handle(self, event: CircuitEvent, now: float) -> None:
        """Take note of what became of a circuit."""
        path = self._by_circuit.get(event.circuit)
        if path is None:
            return
        match event:
            case CircuitOpened():
                self._opened(path, event, now)
            case CircuitFailed(error=error):
                self._failed(path, error, now)
            case CircuitLost() | CircuitClosed():
                self._detach(path)
                self._rebuild_later(path, now)

    def next_deadline(self) -> float:
        """Return when the next circuit is to be tried."""
        return min((path.retry_at for path in self._paths.values()), default=math.inf)

    def handle_deadline(self, now: float) -> None:
        """Try again what is due; afterwards the next deadline lies after ``now``."""
        for path in list(self._paths.values()):
            if path.retry_at <= now:
                path.retry_at = math.inf
                self._retry(path, now)

    # -- one path's life -------------------------------------------------------------

    def _add(
        self, destination: IpNetwork, hops: int, strategy: str, via: tuple[NodeId, ...], now: float
    ) -> RequestedPath:
        for other in self._paths.values():
            if other.destination == destination:
                raise ConfigurationError(
                    f"path {other.number} serves this destination already; "
                    f"close it first: overlay path close {other.number}."
                )
        if len(self._paths) >= MAX_PATHS:
            raise ConfigurationError(f"{MAX_PATHS} paths are open, which is the most; close one.")
        self._last_number += 1
        path = RequestedPath(self._last_number, destination, hops, strategy, via, now)
        self._paths[path.number] = path
        return path

    def _attempt(self, path: RequestedPath, now: float) -> None:
        mix_path = self._select(path, now)
        circuit = self._circuits.anonymous_connection(mix_path, path.destination, now)
        path.circuit, path.mix_path = circuit, mix_path
        self._by_circuit[circuit] = path

    def _select(self, path: RequestedPath, now: float) -> MixPath:
        selector = self._selector(path.strategy)
        view = self._table.view(now)
        try:
            return selector.select(self._path_request(path, path.avoid), view, self._rng)
        except NoSuitablePath:
            if not path.avoid:
                raise
            # Better a Mix-node that failed lately than no path at all.
            path.avoid = frozenset()
            return selector.select(self._path_request(path, path.avoid), view, self._rng)

    def _path_request(self, path: RequestedPath, avoid: frozenset[NodeId]) -> PathRequest:
        return PathRequest(
            destination=path.destination.network_address,
            hops=path.hops,
            source=self._source,
            onion_suite=self._onion_suite,
            esp_suite=self._esp_suite,
            via=path.via,
            avoid=avoid,
        )

    def _retry(self, path: RequestedPath, now: float) -> None:
        try:
            self._attempt(path, now)
        except PathError as error:
            self._failed(path, error, now)

    def _opened(self, path: RequestedPath, event: CircuitOpened, now: float) -> None:
        path.inner_addresses = tuple(event.inner_addresses)
        address = path.carried_address
        if address is None:
            self._drop_circuit(path, now)
            self._failed(path, PathError("the exit lent no address of this family."), now)
            return
        self._guard.carry(path.destination, address)
        path.state, path.opened_at = PathState.OPEN, now
        path.failures, path.avoid, path.error = 0, frozenset(), None
        path.settled.set()

    def _failed(self, path: RequestedPath, error: PathError, now: float) -> None:
        self._blame(path, error)
        self._detach(path)
        path.failures += 1
        if path.state is PathState.OPENING and path.failures >= _FIRST_ATTEMPTS:
            path.error = error
            self._forget(path)
            path.settled.set()
            return
        self._rebuild_later(path, now)

    def _blame(self, path: RequestedPath, error: PathError) -> None:
        """Avoid the hop that refused and, if it could not reach the next one, that one too.

        A confirmation that does not come tells nothing about who is to blame.
        """
        hops = path.mix_path.hops if path.mix_path is not None else ()
        match error:
            case CircuitRefused(hop=first):
                last = first + (error.reason == RefuseReason.UNREACHABLE.name)
            case CircuitTimedOut(silent_hop=int(first)):
                last = first
            case _:
                return
        path.avoid |= {hop.node_id for hop in hops[max(first - 1, 0) : last]}

    def _rebuild_later(self, path: RequestedPath, now: float) -> None:
        if path.state is PathState.OPEN:
            path.state = PathState.REBUILDING
        wait_s = _REBUILD_WAIT_S[min(path.failures, len(_REBUILD_WAIT_S) - 1)]
        path.retry_at = now + max(wait_s, 0.01)

    def _drop_circuit(self, path: RequestedPath, now: float) -> None:
        circuit = path.circuit
        self._detach(path)
        if circuit is not None:
            self._circuits.close(circuit, now)

    def _detach(self, path: RequestedPath) -> None:
        """Take the path off its circuit; its destination stays guarded."""
        address = path.carried_address
        if address is not None:
            self._guard.uncarry(path.destination, address)
        if path.circuit is not None:
            self._by_circuit.pop(path.circuit, None)
        path.circuit, path.inner_addresses, path.opened_at = None, (), None

    def _forget(self, path: RequestedPath) -> None:
        self._paths.pop(path.number, None)
        if path.circuit is not None:
            self._by_circuit.pop(path.circuit, None)
        self._guard.release(path.destination)
