"""The anonymous paths that the user asked for, and the circuits that serve them.

A path is a wish that lasts until the user closes it; a circuit is one attempt to serve it.
From the moment of the wish the destination is guarded: its packets may leave through a
circuit or not at all. When a circuit is lost, the path is built anew over other Mix-nodes.

::

    request ──> OPENING ──opened──> OPEN ──lost──> REBUILDING ──opened──> OPEN
                   │ no path             └───────────┴── close ──> guard ended? ─yes─> (forgotten)
                   └──> the user is told why ─────────────────────────┘  └─no─> CLOSING, again

What the host refuses (``BackendError``) fails the one path that it happened to, and always
towards silence: a destination whose guard cannot be ended stays guarded and is tried again.
"""

from __future__ import annotations

import contextlib
import ipaddress
import math
from collections.abc import Callable, Iterable
from random import Random
from typing import Protocol

from overlay.addresses import InnerAddress, IpNetwork, NodeId
from overlay.apm.control import RefuseReason
from overlay.apm.events import CircuitClosed, CircuitFailed, CircuitLost, CircuitOpened
from overlay.dht.topology_table import TopologyTable
from overlay.errors import (
    AddressInUse,
    BackendError,
    CircuitRefused,
    CircuitTimedOut,
    ConfigurationError,
    InternalError,
    NoSuitablePath,
    OverlayError,
    PathError,
)
from overlay.node.requested_path import PathState, RequestedPath, of_version
from overlay.selection.selector import MixPath, PathRequest, PathSelector

__all__ = ["CircuitEvent", "CircuitService", "Guard", "PathState", "Paths", "RequestedPath"]

MAX_PATHS = 256
"""Each holds a route, an address and a circuit."""

_FIRST_ATTEMPTS = 4
_REBUILD_WAIT_S = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Waits before each further attempt; the last one repeats."""

_LASTING_S = 10.0
"""A circuit lost sooner says something about its path: any hop can tear it down at once."""

CircuitEvent = CircuitOpened | CircuitFailed | CircuitLost | CircuitClosed


class CircuitService(Protocol):
    """What paths need of Anonymous Paths Management."""

    def anonymous_connection(self, path: MixPath, destination: IpNetwork, now: float) -> int:
        """Begin a circuit and return its process-local number."""
        ...

    def close(self, circuit: int, now: float) -> None:
        """Tear a circuit down."""
        ...


class Guard(Protocol):
    """What keeps packets to a destination from leaving outside its circuit.

    Every call may raise ``BackendError``; the destination then stays guarded.
    """

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


class Paths:
    """Owner of every requested path; bounded by ``MAX_PATHS``.

    ``guard_refusals`` counts what the host refused while nobody waited for an answer,
    ``first_tries`` the paths whose first circuit was begun, ``opened_at_first_try`` those that
    this circuit served.
    """

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
        self.guard_refusals = 0
        self.first_tries = 0
        self.opened_at_first_try = 0

    def all(self) -> list[RequestedPath]:
        """Return the requested paths, oldest first."""
        return list(self._paths.values())

    def covers(self, packed: bytes) -> bool:
        """Tell whether an address lies in the destination of a path."""
        address = ipaddress.ip_address(packed)
        return any(
            address.version == path.destination.version and address in path.destination
            for path in self._paths.values()
        )

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

    # -- what the user asks ----------------------------------------------------------

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
            NoSuitablePath: the topology table has no such path; the host was not touched.
            BackendError: the host did not guard the destination.
            LimitReached: this node has as many circuits as it may.
        """
        path = self._new(destination, hops, strategy, via, now)
        mix_path = self._select(path, now)
        self._paths[path.number] = path
        try:
            self._guard.protect(destination)
            self._connect(path, mix_path, now)
            self.first_tries += 1
        except BaseException:
            self._end_quietly(path, now)
            raise
        return path

    def adopt(self, destination: IpNetwork, *, hops: int, strategy: str, now: float) -> None:
        """Take over a destination that a node which died here had guarded, and rebuild its path.

        Raises:
            ConfigurationError: there are more of them than one node may have.
        """
        path = self._new(destination, hops, strategy, (), now)
        path.state, path.retry_at = PathState.REBUILDING, now
        self._paths[path.number] = path
        try:
            self._guard.protect(destination)
        except BackendError:  # what was left guards it; :meth:`Guard.carry` tries again
            self.guard_refusals += 1

    def close(self, number: int, now: float) -> None:
        """Tear the path's circuit down, then end the guard of its destination.

        Raises:
            ConfigurationError: there is none of that number.
            BackendError: the guard did not end. The path remains as CLOSING, and another try
                follows, at the latest when it is closed again.
        """
        path = self.get(number)
        self._part(path, now)
        self._end(path, now)

    def close_all(self, now: float, *, release: bool) -> int:
        """Drop every circuit and forget every path, because the node stops.

        Args:
            now: Unix seconds.
            release: whether to end the guards as well; else destinations stay blocked.

        Returns:
            How many guards the host did not end.
        """
        for path in self.all():
            self._part(path, now)
            if release:
                self._end_quietly(path, now)
        remaining = len(self._paths) if release else 0
        self._paths.clear()
        return remaining

    def rebuild_all(self, now: float) -> None:
        """Build every path anew, because the source's TUN device has gone."""
        for path in self.all():
            if path.inner_addresses:
                self._drop_circuit(path, now)
                self._rebuild_later(path, now)

    # -- what happens meanwhile ------------------------------------------------------

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
                self._lost(path, now)

    def next_deadline(self) -> float:
        """Return when the next circuit is to be tried."""
        return min((path.retry_at for path in self._paths.values()), default=math.inf)

    def handle_deadline(self, now: float) -> None:
        """Try again what is due; afterwards the next deadline lies after ``now``."""
        for path in self.all():
            if path.retry_at <= now:
                path.retry_at = math.inf
                if path.state is PathState.CLOSING:
                    self._end_quietly(path, now)
                else:
                    self._retry(path, now)

    # -- one path's life -------------------------------------------------------------

    def _new(
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
        return RequestedPath(self._last_number, destination, hops, strategy, via, now)

    def _connect(self, path: RequestedPath, mix_path: MixPath, now: float) -> None:
        circuit = self._circuits.anonymous_connection(mix_path, path.destination, now)
        path.circuit, path.mix_path = circuit, mix_path
        self._by_circuit[circuit] = path

    def _select(self, path: RequestedPath, now: float) -> MixPath:
        """Choose among those who answered lately and did not fail, as long as there is a path.

        Better a Mix-node that was silent than no path at all, and better one that failed.
        """
        selector = self._selector(path.strategy)
        view = self._table.view(now)
        unheard = self._table.unheard()
        for avoid in dict.fromkeys((path.avoid | unheard, path.avoid)):
            if avoid:
                with contextlib.suppress(NoSuitablePath):
                    return selector.select(self._path_request(path, avoid), view, self._rng)
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
            self._connect(path, self._select(path, now), now)
        except InternalError:
            raise
        except OverlayError as error:
            self._failed(path, error, now)

    def _opened(self, path: RequestedPath, event: CircuitOpened, now: float) -> None:
        try:
            self._carry(path.destination, event.inner_addresses)
        except (PathError, BackendError) as error:
            self._drop_circuit(path, now)
            self._failed(path, error, now)
            return
        self.opened_at_first_try += path.state is PathState.OPENING and not path.failures
        path.inner_addresses = tuple(event.inner_addresses)
        path.state, path.opened_at = PathState.OPEN, now
        path.failures, path.avoid, path.error = 0, frozenset(), None
        path.settled.set()

    def _carry(self, destination: IpNetwork, inner_addresses: Iterable[InnerAddress]) -> None:
        address = of_version(inner_addresses, destination.version)
        if address is None:
            raise PathError("the exit lent no address of this family.")
        self._guard.carry(destination, address)

    def _failed(self, path: RequestedPath, error: OverlayError, now: float) -> None:
        """Try another circuit later; a wish that was never fulfilled ends some time.

        What this host refuses, it refuses for every circuit: then one attempt is enough.
        """
        self._blame(path, error)
        self._detach(path)
        path.failures += 1
        hopeless = path.failures >= _FIRST_ATTEMPTS or isinstance(error, BackendError)
        if path.state is PathState.OPENING and hopeless:
            path.error = error
            path.settled.set()
            self._end_quietly(path, now)
            return
        self._rebuild_later(path, now)

    def _lost(self, path: RequestedPath, now: float) -> None:
        lasted = path.opened_at is not None and now >= path.opened_at + _LASTING_S
        path.fleeting = 0 if lasted else path.fleeting + 1
        self._detach(path)
        self._rebuild_later(path, now)

    def _blame(self, path: RequestedPath, error: OverlayError) -> None:
        """Avoid the hop that refused and, if it could not reach the next one, that one too.

        A confirmation that does not come tells nothing about who is to blame.
        """
        hops = path.mix_path.hops if path.mix_path is not None else ()
        match error:
            case CircuitRefused(hop=first):
                last = first + (error.reason == RefuseReason.UNREACHABLE.name)
            case CircuitTimedOut(silent_hop=int(first)):
                last = first
            case AddressInUse():
                first = last = len(hops)
            case _:
                return
        # Those that the topology table has forgotten need not be avoided any more.
        known = {node_id for node_id in path.avoid if self._table.get(node_id) is not None}
        path.avoid = frozenset(known | {hop.node_id for hop in hops[max(first - 1, 0) : last]})

    def _rebuild_later(self, path: RequestedPath, now: float) -> None:
        if path.state is PathState.OPEN:
            path.state = PathState.REBUILDING
        path.retry_at = now + _wait_s(path.failures + path.fleeting)

    def _part(self, path: RequestedPath, now: float) -> None:
        """Take a path off its circuit for good, and tell who waits for it."""
        self._drop_circuit(path, now)
        path.retry_at = math.inf
        path.error = path.error or PathError("the path was closed while it was being opened.")
        path.settled.set()

    def _drop_circuit(self, path: RequestedPath, now: float) -> None:
        circuit = path.circuit
        self._detach(path)
        if circuit is not None:
            self._circuits.close(circuit, now)

    def _detach(self, path: RequestedPath) -> None:
        """Take the path off its circuit; its destination stays guarded."""
        address = path.carried_address
        if path.circuit is not None:
            self._by_circuit.pop(path.circuit, None)
        path.circuit, path.inner_addresses, path.opened_at = None, (), None
        if address is not None:
            try:
                self._guard.uncarry(path.destination, address)
            except BackendError:  # no circuit takes what still goes into the device
                self.guard_refusals += 1

    def _end(self, path: RequestedPath, now: float) -> None:
        """End the guard and forget the path; as long as the host refuses, it is CLOSING."""
        try:
            self._guard.release(path.destination)
        except BackendError as error:
            if path.state is not PathState.CLOSING:
                path.state, path.failures = PathState.CLOSING, 0
            path.failures += 1
            path.retry_at = now + _wait_s(path.failures)
            raise BackendError(
                f"path {path.number} carries nothing any more, but its destination stays blocked "
                f"for now: {error}"
            ) from error
        self._paths.pop(path.number, None)

    def _end_quietly(self, path: RequestedPath, now: float) -> None:
        try:
            self._end(path, now)
        except BackendError:
            self.guard_refusals += 1


def _wait_s(failures: int) -> float:
    return max(_REBUILD_WAIT_S[min(failures, len(_REBUILD_WAIT_S) - 1)], 0.01)
