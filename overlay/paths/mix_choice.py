"""Choose the Mix-nodes for the next circuit of a path, and avoid those that failed before.

Reasons: docs/decisions/0043.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Final

from overlay.addresses import NodeId
from overlay.apm.control import RefuseReason
from overlay.apm.events import CircuitEnd, CircuitLost, CircuitMoved
from overlay.dht.topology_table import TopologyTable
from overlay.errors import (
    AddressInUse,
    CircuitRefused,
    CircuitTimedOut,
    NoSuitablePath,
    OverlayError,
)
from overlay.paths.requested_path import RequestedPath
from overlay.selection.selector import MixPath, PathRequest, PathSelector

__all__ = ["MixChoice"]

_UNKNOWN_VERSIONS: Final = frozenset((4, 6))
"""IP versions to assume if the host has no route now; both may work when the circuit is built."""


class MixChoice:
    """Ask the path selection strategies, and note in each path the Mix-nodes to avoid.

    ``selector`` returns a strategy by name. ``versions`` returns the IP versions of this host.
    ``look_again`` requests an early crawl of the overlay.
    """

    def __init__(
        self,
        *,
        table: TopologyTable,
        selector: Callable[[str], PathSelector],
        source: NodeId,
        onion_suite: int,
        esp_suite: int,
        rng: Random,
        versions: Callable[[], frozenset[int]],
        look_again: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._table = table
        self._selector = selector
        self._source = source
        self._onion_suite = onion_suite
        self._esp_suite = esp_suite
        self._rng = rng
        self._versions = versions
        self._look_again = look_again

    def select(self, path: RequestedPath, now: float) -> MixPath:
        """Return Mix-nodes for a circuit of ``path``.

        Mix-nodes that answered recently and did not fail are preferred. If they allow no path,
        silent Mix-nodes are used too, and finally those that failed.

        Raises:
            NoSuitablePath: the topology table allows no path.
            ConfigurationError: there is no strategy with this name.
        """
        selector = self._selector(path.strategy)
        view = self._table.view(now)
        unheard = self._table.unheard()
        for avoid in dict.fromkeys((path.avoid | unheard, path.avoid)):
            if avoid:
                with contextlib.suppress(NoSuitablePath):
                    return selector.select(self._request(path, avoid), view, self._rng)
        self._look_again(now)
        path.avoid = frozenset()
        return selector.select(self._request(path, path.avoid), view, self._rng)

    def select_together(
        self, paths: Sequence[RequestedPath], now: float
    ) -> Sequence[MixPath] | None:
        """Return Mix-nodes for each path of a request; None if all its paths shall wait.

        Raises:
            NoSuitablePath: the topology table does not allow one of them, and the request waits
                no longer.
            ConfigurationError: there is no strategy with this name.
        """
        try:
            return [self.select(path, now) for path in paths]
        except NoSuitablePath:
            if any(now >= path.patient_until for path in paths):
                raise
            return None

    def has_other(self, path: RequestedPath, now: float) -> bool:
        """Tell whether there is a path that avoids all Mix-nodes that failed.

        If there is none, they may have moved, so an early crawl is requested. A lookup of one of
        them is not made: it would show other nodes which Mix-nodes this node uses.
        """
        if not path.avoid:
            return True
        try:
            request = self._request(path, path.avoid)
            self._selector(path.strategy).select(request, self._table.view(now), self._rng)
        except OverlayError:
            self._look_again(now)
            return False
        return True

    def select_standby(self, path: RequestedPath, now: float) -> MixPath:
        """Return hops for a standby circuit: the same exit, and other relays if possible.

        If no path avoids all relays in use, a path that avoids one of them is returned, because it
        helps if that relay fails. Hops that the user named stay.

        Raises:
            OverlayError: there is no other path.
        """
        if path.mix_path is None:
            raise NoSuitablePath("there is no circuit to stand by for.", known=0, removed=())
        *relays, last = (hop.node_id for hop in path.mix_path.hops)
        free = [relay for relay in relays if relay not in path.via]
        view, selector = self._table.view(now), self._selector(path.strategy)
        shunned = path.avoid | self._table.unheard() - {last}
        choices = [frozenset(free), *(frozenset({relay}) for relay in free)]
        for avoid in dict.fromkeys(each for each in choices if each):
            request = replace(self._request(path, avoid | shunned), exit=last)
            with contextlib.suppress(NoSuitablePath):
                return selector.select(request, view, self._rng)
        raise NoSuitablePath("no other relays lead to the exit.", known=len(view), removed=())

    def ended(self, path: RequestedPath, event: CircuitLost | CircuitMoved) -> None:
        """Avoid the hops that may have caused the end of a circuit.

        These are the silent hop, an exit that withdrew, and a hop that reported the loss of a
        neighbour. In the last case both hops are avoided, because either may be at fault.
        """
        hops = path.mix_path.hops if path.mix_path is not None else ()
        last = event.silent_hop or 0
        if event.reason is CircuitEnd.WITHDRAWN:
            last = len(hops)
        first = last - (event.reason is CircuitEnd.TORN_DOWN)
        path.avoid |= {hop.node_id for hop in hops[max(first - 1, 0) : last]}

    def blame(self, path: RequestedPath, error: OverlayError) -> None:
        """Avoid the hop that refused a circuit; if it could not reach the next hop, avoid both.

        A missing confirm names no hop unless the error does, so then no hop is avoided.
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
        # Mix-nodes that are no longer in the topology table cannot be selected anyway.
        known = {node_id for node_id in path.avoid if self._table.get(node_id) is not None}
        path.avoid = frozenset(known | {hop.node_id for hop in hops[max(first - 1, 0) : last]})

    def _request(self, path: RequestedPath, avoid: frozenset[NodeId]) -> PathRequest:
        return PathRequest(
            destination=path.destination.network_address,
            hops=path.hops,
            source=self._source,
            onion_suite=self._onion_suite,
            esp_suite=self._esp_suite,
            via=path.via,
            avoid=avoid,
            versions=self._versions() or _UNKNOWN_VERSIONS,
            network=path.destination,
        )
