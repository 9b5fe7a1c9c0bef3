"""Whether and where this node is reached, and its help with that for others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random

from overlay.addresses import Endpoint, NodeId
from overlay.dht.acceptance import Acceptance
from overlay.dht.calls import Calls
from overlay.dht.contacted import Contacted
from overlay.dht.descriptor import MixDescriptor
from overlay.dht.envelope import Envelopes, UnverifiedRequest
from overlay.dht.events import DhtCount, EventQueue
from overlay.dht.help_messages import HelpReply, HelpRequest, Meet, WantProbe
from overlay.dht.live_contacts import LiveContacts
from overlay.dht.meeting_place import MeetingPlace
from overlay.dht.meetings import Meetings
from overlay.dht.messages import Contact
from overlay.dht.probe_help import ProbeHelp
from overlay.dht.reach import KnownEndpoints, Reach
from overlay.dht.reach_tests import ReachTests
from overlay.dht.routing import Table

__all__ = ["Reachability"]


class Reachability:
    """Connect the parts to what the DHT core knows.

    ``tests`` are those of this node's endpoints, ``meetings`` those with nodes behind the same
    NAT. ``verified`` returns the verified descriptor in a record of a node, or raises PeerError.
    ``counts`` tells how many requests were dropped because this node had no time. ``contacted``
    records where this node sends.
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
        verified: Callable[[bytes, NodeId, float], MixDescriptor],
        reach: Reach,
        contacted: Contacted,
        events: EventQueue,
        counts: Counter[DhtCount],
    ) -> None:
        contacts = LiveContacts(table, acceptance, known_endpoints, rng)
        self._place = MeetingPlace()
        self._help = ProbeHelp(
            own_id,
            envelopes,
            calls,
            rng,
            contacts=contacts,
            verified=verified,
            sends_to=acceptance.can_send_to,
            reach=reach,
            events=events,
        )
        self.tests = ReachTests(
            own_id,
            envelopes.network_id,
            calls,
            rng,
            contacts=contacts,
            contacted=contacted,
            events=events,
            counts=counts,
        )
        self.meetings = Meetings(calls, rng)

    def arrived(self, request: UnverifiedRequest, source: Endpoint, now: float) -> bool:
        """Take a request if it is a probe of this node's tests; tell whether it was one."""
        return self.tests.arrived(request, source, now)

    def help(self, request: HelpRequest, asker: Contact, now: float) -> HelpReply:
        """Answer a request for help of a node whose key and address are proved."""
        if isinstance(request, Meet):
            return self._place.meet(request, asker, now)
        if isinstance(request, WantProbe):
            return self._help.want(request, asker, now)
        return self._help.send(request, asker, now)

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
