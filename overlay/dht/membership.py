"""Keep this node in the overlay: greet, add contacts, ping doubtful ones.

::

    ALONE ──first contact proves itself──▶ JOINING ──self-lookup──▶ JOINED
      ▲                                       │                       │
      └──────── the last contact is gone ─────┴───────────────────────┘
    leave() ends in LEFT, from anywhere.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from functools import partial
from random import Random
from typing import Final

from overlay.addresses import Endpoint, NodeId
from overlay.dht.bootstrap_watch import BootstrapWatch
from overlay.dht.calls import Calls, VerifiedReply
from overlay.dht.events import BootstrapUnreachable, EventQueue, Joined
from overlay.dht.joining import Greeting, Joining
from overlay.dht.messages import Contact, Ping
from overlay.dht.reach import Reach
from overlay.dht.routing import Table
from overlay.dht.schedule import Schedule, Task
from overlay.dht.settings import DhtSettings

__all__ = ["MAX_PROBES", "Membership", "Phase"]

MAX_PROBES: Final = 16
_MAX_SHOWN: Final = 64
"""Number of nearest contacts that are pinged after this node has moved."""


class Phase(enum.Enum):
    """The state of this node's membership."""

    ALONE = "alone"
    JOINING = "joining"
    JOINED = "joined"
    LEFT = "left"


# Large: each event that changes who is a member is a method.
class Membership:
    """Send greetings, add contacts and ping doubtful contacts, at most 16 at a time.

    ``must_look_around`` tells the owner to look up this node's own id, because the first contact
    has proved itself. The owner clears it and passes the end of the lookup to
    :meth:`looked_around`. ``events`` receives what the user of the DHT learns.
    """

    def __init__(
        self,
        own_id: NodeId,
        settings: DhtSettings,
        rng: Random,
        *,
        calls: Calls,
        table: Table,
        schedule: Schedule,
        reach: Reach,
        events: EventQueue,
    ) -> None:
        self.phase = Phase.ALONE
        self.must_look_around = False
        self._own_id = own_id
        self._settings = settings
        self._rng = rng
        self._calls = calls
        self._table = table
        self._schedule = schedule
        self._reach = reach
        self._events = events
        self._joining = Joining(settings, rng)
        self._watch = BootstrapWatch(settings, rng)
        self._greets_mistaken = False
        self._probing: set[NodeId] = set()

    # Joining and leaving.

    def add_bootstrap(self, endpoints: Sequence[Endpoint], now: float) -> None:
        """Greet these bootstrap endpoints in a round that is due now."""
        self._watch.add(endpoints)
        self._joining.add_bootstrap(endpoints, now)

    def add_seeds(self, seeds: Sequence[Greeting], now: float) -> None:
        """Greet a sample of these nodes in a round that is due now."""
        self._joining.add_seeds(seeds, now)

    def add_hints(self, hints: Sequence[Greeting], now: float) -> None:
        """Greet a sample of these nodes, which were reached once, in a round that is due now."""
        self._joining.add_hints(hints, now)

    def greet(self, now: float) -> None:
        """Send the greetings of a round if one is due, except to this node's own endpoints."""
        own = self._reach.own
        for greeting in self._joining.round(now, own):
            on_answer = partial(self._greeted, greeting)
            self._calls.start(
                Ping(), greeting.endpoint, greeting.node_id, now, on_answer, insistent=True
            )
        for endpoint in self._watch.due(now, own):
            self._calls.start(Ping(), endpoint, None, now, partial(self._asked_again, endpoint))

    def _asked_again(self, endpoint: Endpoint, answer: VerifiedReply | None, now: float) -> None:
        if answer is None:
            self._watch.silent(endpoint, now)
            return
        self._watch.answered(endpoint, answer.contact.node_id, now)
        self.met(answer.contact, now)

    def mistaken(self, source: Endpoint, now: float) -> None:
        """Greet a node that sent a request for another node, if this node has no contact.

        The sender may know the node that ran at this endpoint before, so it belongs to the overlay.
        """
        if self.phase is Phase.ALONE and not self._greets_mistaken:
            self._greets_mistaken = True
            self._calls.start(Ping(), source, None, now, self._greeted_mistaken)

    def _greeted_mistaken(self, answer: VerifiedReply | None, now: float) -> None:
        self._greets_mistaken = False
        if answer is not None:
            self.met(answer.contact, now)

    def moved(self, now: float) -> None:
        """Send contacts the new endpoint of this node, or greet at once if it has none."""
        if self.phase is Phase.ALONE:
            self._joining.restart(now)
        elif self.phase is not Phase.LEFT:
            for contact in self._table.closest(self._own_id, _MAX_SHOWN):
                self._probe(contact, now, crowded=True)

    def next_deadline(self) -> float:
        """Return when the next greetings are due."""
        return min(self._joining.next_deadline(), self._watch.next_deadline())

    def leave(self) -> None:
        """Stop sending greetings and adding contacts."""
        self.phase = Phase.LEFT
        self._joining.stop()
        self._watch.end()

    # Contacts.

    def pinged(self, contact: Contact, now: float) -> None:
        """Add a contact that sent a PING.

        A ping never causes another ping. Otherwise each receiver with a full bucket would ping a
        doubtful contact, which would do the same, and a large overlay would never stop.
        """
        self.met(contact, now, may_probe=False)

    def met(self, contact: Contact, now: float, *, may_probe: bool = True) -> None:
        """Add a contact that has just proved its key and its endpoint.

        By default this may ping a doubtful contact, whose place the new one could take.
        """
        if self.phase is Phase.LEFT or self._table.renewed(contact, now):
            return
        is_new = self._table.get(contact.node_id) is None
        doubtful = self._table.file(contact, now)
        if doubtful is not None and may_probe:
            self._probe(doubtful, now)
        if self.phase is Phase.ALONE:
            self.phase = Phase.JOINING
            self.must_look_around = True
        elif is_new and self._table.has_fewer_than(self._settings.k):
            # The overlay is small or this node is new, so a crawl soon will find new nodes.
            soon = self._settings.crawl_first_interval_s * self._rng.uniform(0.8, 1.2)
            self._schedule.hasten(Task.CRAWL, now + soon)

    def silent(self, contact: Contact, now: float) -> None:
        """Record that a contact did not answer a call."""
        self._table.failed(contact)
        self._watch.hasten(contact.endpoint, now)
        self._check_company(now)

    def gone(self, node_id: NodeId, now: float) -> None:
        """Remove a contact that sent LEAVE."""
        self._table.remove(node_id)
        self._check_company(now)

    def looked_around(self, now: float) -> bool:
        """Process the end of the lookup of this node's own id; tell whether it has joined.

        It has not joined if it has lost its only contact meanwhile.
        """
        if self._table.has_fewer_than(1):
            self._be_alone(now)
            return False
        self.phase = Phase.JOINED
        self._watch.begin(now)
        self._events.append(Joined(len(self._table)))
        return True

    def _greeted(self, greeting: Greeting, answer: VerifiedReply | None, now: float) -> None:
        if answer is not None:
            self._joining.answered()
            self.met(answer.contact, now)
            return
        self._joining.failed(now)
        if greeting.node_id is None:
            self._events.append(BootstrapUnreachable(greeting.endpoint))

    def _check_company(self, now: float) -> None:
        if self.phase is Phase.JOINED and self._table.has_fewer_than(1):
            self._be_alone(now)

    def _be_alone(self, now: float) -> None:
        self.phase = Phase.ALONE
        self._schedule.cancel_all()
        self._watch.end()
        self._joining.retry(now)

    def _probe(self, contact: Contact, now: float, *, crowded: bool = False) -> None:
        """Ping a contact: the least recently seen one of a full bucket, before it is replaced.

        ``crowded`` permits more pings at a time than others cause.
        """
        most = _MAX_SHOWN if crowded else MAX_PROBES
        if contact.node_id in self._probing or len(self._probing) >= most:
            return
        self._probing.add(contact.node_id)
        on_answer = partial(self._probed, contact)
        self._calls.start(Ping(), contact.endpoint, contact.node_id, now, on_answer)

    def _probed(self, contact: Contact, answer: VerifiedReply | None, now: float) -> None:
        self._probing.discard(contact.node_id)
        if answer is None:
            self.silent(contact, now)
        else:
            self.met(answer.contact, now)
