"""Whether and where this node is reached, and its help with that for others."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

from overlay.addresses import NODE_ID_BYTES, Endpoint, NodeId, version_of
from overlay.dht.acceptance import Acceptance
from overlay.dht.calls import Calls
from overlay.dht.descriptor import MixDescriptor
from overlay.dht.envelope import Envelopes, UnverifiedRequest
from overlay.dht.events import DhtEvent
from overlay.dht.help_messages import HelpReply, HelpRequest, Meet, WantProbe
from overlay.dht.meeting_place import MeetingPlace
from overlay.dht.meetings import Meetings
from overlay.dht.messages import Contact
from overlay.dht.probe_help import ProbeHelp
from overlay.dht.reach import KnownEndpoints, towards
from overlay.dht.reach_tests import ReachTests
from overlay.dht.responder import RequestResponder
from overlay.dht.routing import Table

__all__ = ["Reachability"]

_MOST_CONTACTS: Final = 256


class Reachability:
    """Wires the parts to what the DHT core knows.

    ``tests`` are those of this node's endpoints, ``meetings`` those with nodes behind the same
    NAT. ``responder`` passes requests of others on. ``verified`` returns the verified descriptor
    in a record of a node, or raises PeerError. ``overloaded`` returns how many requests were
    dropped because this node had no time.
    """

    def __init__(
        self,
        own_id: NodeId,
        envelopes: Envelopes,
        calls: Calls,
        rng: Random,
        *,
        table: Table,
        acceptance: Acceptance,
        known_endpoints: KnownEndpoints,
        verified: Callable[[bytes, NodeId], MixDescriptor],
        responder: RequestResponder,
        clock: Callable[[], float],
        emit: Callable[[DhtEvent], None],
        overloaded: Callable[[], int],
    ) -> None:
        self._rng = rng
        self._table = table
        self._acceptance = acceptance
        self._known_endpoints = known_endpoints
        self._place = MeetingPlace(clock)
        self._help = ProbeHelp(
            own_id,
            envelopes,
            calls,
            rng,
            contacts=self._contacts,
            verified=verified,
            sends_to=acceptance.can_send_to,
            own_endpoints=lambda: responder.own_endpoints,
            clock=clock,
            emit=emit,
        )
        self.tests = ReachTests(
            own_id,
            envelopes.network_id,
            calls,
            rng,
            contacts=self._contacts,
            clock=clock,
            emit=emit,
            overloaded=overloaded,
        )
        self.meetings = Meetings(calls, rng, clock)
        responder.helper = self

    def arrived(self, request: UnverifiedRequest, source: Endpoint, now: float) -> bool:
        """Take a request if it is a probe of this node's tests; tell whether it was one."""
        return self.tests.arrived(request, source, now)

    def help(self, request: HelpRequest, asker: Contact) -> HelpReply:
        """Answer a request for help of a node whose key and address are proved."""
        if isinstance(request, Meet):
            return self._place.meet(request, asker)
        if isinstance(request, WantProbe):
            return self._help.want(request, asker)
        return self._help.send(request, asker)

    def next_deadline(self) -> float:
        """Return when :meth:`handle_deadline` is due."""
        return min(self.tests.next_deadline(), self.meetings.next_deadline())

    def handle_deadline(self, now: float) -> None:
        """Test and meet, as far as due."""
        self.tests.handle_deadline(now)
        self.meetings.handle_deadline(now)

    def stop(self, now: float) -> None:
        """Test and meet nothing from now on."""
        self.tests.stop()
        self.meetings.follow((), now)

    def _contacts(self, version: int) -> list[Contact]:
        """Return live contacts at endpoints of an IP version, in random order."""
        start = NodeId(self._rng.randbytes(NODE_ID_BYTES))
        wanted = frozenset((version,))
        near = self._table.closest(start, _MOST_CONTACTS, alive=True)
        found = [towards(wanted, each, self._known_endpoints) for each in near]
        usable = [
            each
            for each in found
            if version_of(each.endpoint) == version and self._acceptance.allows(each.endpoint)
        ]
        self._rng.shuffle(usable)
        return usable
