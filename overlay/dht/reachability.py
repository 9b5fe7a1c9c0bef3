"""The two sides of reachability tests, wired to what the DHT core knows."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

from overlay.addresses import NODE_ID_BYTES, NodeId, version_of
from overlay.dht.acceptance import Acceptance
from overlay.dht.calls import Calls
from overlay.dht.descriptor import MixDescriptor
from overlay.dht.envelope import Envelopes
from overlay.dht.events import DhtEvent
from overlay.dht.messages import Contact
from overlay.dht.probe_help import ProbeHelp
from overlay.dht.reach import KnownEndpoints, towards
from overlay.dht.reach_tests import ReachTests
from overlay.dht.responder import Responder
from overlay.dht.routing import Table

__all__ = ["reachability"]

_MOST_CONTACTS: Final = 256


def reachability(
    own_id: NodeId,
    envelopes: Envelopes,
    calls: Calls,
    rng: Random,
    *,
    table: Table,
    acceptance: Acceptance,
    responder: Responder,
    known_endpoints: KnownEndpoints,
    verified: Callable[[bytes, NodeId], MixDescriptor],
    clock: Callable[[], float],
    emit: Callable[[DhtEvent], None],
    overloaded: Callable[[], int],
) -> ReachTests:
    """Let ``responder`` help with others' tests; return the tests of this node's endpoints."""

    def contacts(version: int) -> list[Contact]:
        start = NodeId(rng.randbytes(NODE_ID_BYTES))
        wanted = frozenset((version,))
        near = table.closest(start, _MOST_CONTACTS, alive=True)
        found = [towards(wanted, each, known_endpoints) for each in near]
        usable = [
            each
            for each in found
            if version_of(each.endpoint) == version and acceptance.allows(each.endpoint)
        ]
        rng.shuffle(usable)
        return usable

    responder.probe_help = ProbeHelp(
        own_id,
        envelopes,
        calls,
        rng,
        contacts=contacts,
        verified=verified,
        sends_to=acceptance.can_send_to,
        own_endpoints=lambda: responder.own_endpoints,
        clock=clock,
        emit=emit,
    )
    responder.reach_tests = ReachTests(
        own_id,
        envelopes.network_id,
        calls,
        rng,
        contacts=contacts,
        clock=clock,
        emit=emit,
        overloaded=overloaded,
    )
    return responder.reach_tests
