"""Look up records from one node, with the same code over real sockets and on the event heap."""

from __future__ import annotations

from functools import partial
from random import Random

from lab.churn.script import ChurnScript
from overlay.addresses import NodeId
from overlay.dht.core import Dht
from overlay.dht.descriptor import MixDescriptor
from overlay.dht.inspection import DhtInspection
from overlay.dht.lookup import Lookup

__all__ = ["Probing"]


class Probing:
    """Look up records of nodes that are on line for some time, and count successes.

    The owner is not asked, so that the lookup measures how well the DHT stores records.
    """

    def __init__(self, script: ChurnScript, ids: list[NodeId], rng: Random) -> None:
        self._script = script
        self._ids = ids
        self._rng = rng
        self.results: list[bool] = []

    def ask(self, dht: Dht, time_s: float, now: float) -> None:
        """Begin one lookup at the time ``time_s`` of the script."""
        owner = self._ids[self._rng.choice(self._script.settled(time_s))]
        DhtInspection(dht).probe(owner, now, partial(self._walked, dht, owner))

    def _walked(self, dht: Dht, owner: NodeId, lookup: Lookup, now: float) -> None:
        holders = [contact for contact in lookup.closest() if contact.node_id != owner]
        DhtInspection(dht).fetch(owner, holders, now, self._fetched)

    def _fetched(self, descriptor: MixDescriptor | None, _asked: int) -> None:
        self.results.append(descriptor is not None)
