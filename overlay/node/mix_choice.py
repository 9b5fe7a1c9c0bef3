"""Which Mix-nodes the next circuit of a path goes through, given what failed before.

Reasons: docs/decisions/0043.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
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
from overlay.node.requested_path import RequestedPath
from overlay.selection.selector import MixPath, PathRequest, PathSelector

__all__ = ["MixChoice"]

_UNKNOWN_VERSIONS: Final = frozenset((4, 6))
"""Of a host that has no route at present. It may have both again when the circuit is built."""


class MixChoice:
    """Asks the path selection strategies; remembers in each path which Mix-nodes to avoid."""

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
        """Choose among those who answered lately and did not fail, as long as there is a path.

        Better a Mix-node that was silent than no path at all, and better one that failed.

        Raises:
            NoSuitablePath: the topology table has no such path.
            ConfigurationError: there is no strategy of that name.
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

    def has_other(self, path: RequestedPath, now: float) -> bool:
        """Tell whether a path is left that goes through none of the Mix-nodes that failed.

        If not, they may have moved: the overlay is crawled soon. A lookup of one of them would
        tell other nodes through which ones this node wants a path.
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
        """Choose hops to the same exit: other relays than those in use, as far as there are.

        If no path avoids them all, one that avoids one of them still helps when that one dies.
        Hops that the user named stay.

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
        """Avoid the hop that kept silent, withdrew, or said that the next hop is lost.

        Of two hops, one of which lost the other, either one may be at fault.
        """
        hops = path.mix_path.hops if path.mix_path is not None else ()
        last = event.silent_hop or 0
        if event.reason is CircuitEnd.WITHDRAWN:
            last = len(hops)
        first = last - (event.reason is CircuitEnd.TORN_DOWN)
        path.avoid |= {hop.node_id for hop in hops[max(first - 1, 0) : last]}

    def blame(self, path: RequestedPath, error: OverlayError) -> None:
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
        )
