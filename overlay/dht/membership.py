"""Keep this node in the overlay: join, add contacts, ping doubtful ones, refresh buckets.

::

    ALONE ──first contact proves itself──▶ JOINING ──self-lookup──▶ JOINED
      ▲                                       │                       │
      └──────── the last contact is gone ─────┴───────────────────────┘
    leave() ends in LEFT, from anywhere.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Sequence
from functools import partial
from random import Random
from typing import Final

from overlay.addresses import Endpoint, NodeId
from overlay.dht.bootstrap_watch import BootstrapWatch
from overlay.dht.calls import Calls, VerifiedReply
from overlay.dht.events import BootstrapUnreachable, DhtEvent, Joined
from overlay.dht.joining import Greeting, Joining
from overlay.dht.lookup import Lookup
from overlay.dht.messages import Contact, Ping
from overlay.dht.routing import Table
from overlay.dht.schedule import Schedule, Task
from overlay.dht.settings import DhtSettings

__all__ = ["LookUp", "Membership", "Phase"]

_REFRESH_PACE_S: Final = 1.0
"""Pause between the refreshes of two buckets, so that a join does not send a burst."""

_MAX_REFRESHES: Final = 3
_MAX_PROBES: Final = 16
_MAX_SHOWN: Final = 64
"""Number of nearest contacts that are pinged after this node has moved."""

LookUp = Callable[[NodeId, Callable[[Lookup], None]], None]
"""Starts a lookup of an id; the second argument is called with it when it ends."""


class Phase(enum.Enum):
    """The state of this node's membership."""

    ALONE = "alone"
    JOINING = "joining"
    JOINED = "joined"
    LEFT = "left"


# Large: each event that changes who is a member is a method.
class Membership:
    """Send greetings, add contacts, ping doubtful contacts and refresh buckets.

    ``look_up`` starts a lookup, ``emit`` receives events, ``on_joined`` gets the lookup of this
    node's own id. At most 16 pings and 3 refreshes are in progress at a time.
    """

    def __init__(
        self,
        own_id: NodeId,
        settings: DhtSettings,
        rng: Random,
        *,
        clock: Callable[[], float],
        calls: Calls,
        table: Table,
        schedule: Schedule,
        look_up: LookUp,
        emit: Callable[[DhtEvent], None],
        on_joined: Callable[[Lookup], None],
    ) -> None:
        self.phase = Phase.ALONE
        self._own_id = own_id
        self._settings = settings
        self._rng = rng
        self._clock = clock
        self._calls = calls
        self._table = table
        self._schedule = schedule
        self._look_up = look_up
        self._emit = emit
        self._on_joined = on_joined
        self._joining = Joining(settings, rng)
        self._watch = BootstrapWatch(settings, rng)
        self._greets_mistaken = False
        self._probing: set[NodeId] = set()
        self._refreshing = 0

    # Joining and leaving.

    def add_bootstrap(self, endpoints: Sequence[Endpoint]) -> None:
        """Greet these bootstrap endpoints in a round that is due now."""
        self._watch.add(endpoints)
        self._joining.add_bootstrap(endpoints, self._clock())

    def add_seeds(self, seeds: Sequence[Greeting]) -> None:
        """Greet a sample of these nodes in a round that is due now."""
        self._joining.add_seeds(seeds, self._clock())

    def add_hints(self, hints: Sequence[Greeting]) -> None:
        """Greet a sample of these nodes, which were reached once, in a round that is due now."""
        self._joining.add_hints(hints, self._clock())

    def greet(self, own: Collection[Endpoint]) -> None:
        """Send the greetings of a round if one is due, except to our ``own`` endpoints."""
        now = self._clock()
        for greeting in self._joining.round(now, own):
            on_answer = partial(self._greeted, greeting)
            self._calls.start(
                Ping(), greeting.endpoint, greeting.node_id, now, on_answer, insistent=True
            )
        for endpoint in self._watch.due(now, own):
            self._calls.start(Ping(), endpoint, None, now, partial(self._asked_again, endpoint))

    def _asked_again(self, endpoint: Endpoint, answer: VerifiedReply | None) -> None:
        if answer is None:
            self._watch.silent(endpoint, self._clock())
            return
        self._watch.answered(endpoint, answer.contact.node_id, self._clock())
        self.met(answer.contact)

    def mistaken(self, source: Endpoint) -> None:
        """Greet a node that sent a request for another node, if this node has no contact.

        The sender may know the node that ran at this endpoint before, so it belongs to the overlay.
        """
        if self.phase is Phase.ALONE and not self._greets_mistaken:
            self._greets_mistaken = True
            self._calls.start(Ping(), source, None, self._clock(), self._greeted_mistaken)

    def _greeted_mistaken(self, answer: VerifiedReply | None) -> None:
        self._greets_mistaken = False
        if answer is not None:
            self.met(answer.contact)

    def moved(self) -> None:
        """Send contacts the new endpoint of this node, or greet at once if it has none."""
        now = self._clock()
        if self.phase is Phase.ALONE:
            self._joining.restart(now)
        elif self.phase is not Phase.LEFT:
            for contact in self._table.closest(self._own_id, _MAX_SHOWN):
                self._probe(contact, crowded=True)

    def next_deadline(self) -> float:
        """Return when the next greetings are due."""
        return min(self._joining.next_deadline(), self._watch.next_deadline())

    def leave(self) -> None:
        """Stop sending greetings and adding contacts."""
        self.phase = Phase.LEFT
        self._joining.stop()
        self._watch.end()

    # Contacts.

    def pinged(self, contact: Contact) -> None:
        """Add a contact that sent a PING.

        A ping never causes another ping. Otherwise each receiver with a full bucket would ping a
        doubtful contact, which would do the same, and a large overlay would never stop.
        """
        self.met(contact, may_probe=False)

    def met(self, contact: Contact, *, may_probe: bool = True) -> None:
        """Add a contact that has just proved its key and its endpoint.

        By default this may ping a doubtful contact, whose place the new one could take.
        """
        if self.phase is Phase.LEFT or self._table.renewed(contact):
            return
        is_new = self._table.get(contact.node_id) is None
        doubtful = self._table.file(contact)
        if doubtful is not None and may_probe:
            self._probe(doubtful)
        if self.phase is Phase.ALONE:
            self.phase = Phase.JOINING
            self._look_up(self._own_id, self._looked_around)
        elif is_new and self._table.has_fewer_than(self._settings.k):
            # The overlay is small or this node is new, so a crawl soon will find new nodes.
            soon = self._settings.crawl_first_interval_s * self._rng.uniform(0.8, 1.2)
            self._schedule.hasten(Task.CRAWL, self._clock() + soon)

    def silent(self, contact: Contact) -> None:
        """Record that a contact did not answer a call."""
        self._table.failed(contact)
        self._watch.hasten(contact.endpoint, self._clock())
        self._check_company()

    def gone(self, node_id: NodeId) -> None:
        """Remove a contact that sent LEAVE."""
        self._table.remove(node_id)
        self._check_company()

    def refresh(self) -> None:
        """Look up a random id in a bucket that is due for a refresh, a few buckets at a time."""
        spacing = _REFRESH_PACE_S
        if self._refreshing < _MAX_REFRESHES:
            target = self._table.refresh_target()
            if target is not None:
                self._refreshing += 1
                self._look_up(target, self._refreshed)
            else:
                spacing = 0.1 * self._settings.refresh_interval_s
        self._schedule.at(Task.REFRESH, self._clock() + self._rng.uniform(0.5, 1.5) * spacing)

    def _refreshed(self, _: Lookup) -> None:
        self._refreshing -= 1

    def _greeted(self, greeting: Greeting, answer: VerifiedReply | None) -> None:
        if answer is not None:
            self._joining.answered()
            self.met(answer.contact)
            return
        self._joining.failed(self._clock())
        if greeting.node_id is None:
            self._emit(BootstrapUnreachable(greeting.endpoint))

    def _looked_around(self, lookup: Lookup) -> None:
        """Process the end of the self-lookup: this node has joined or lost its only contact."""
        if self._table.has_fewer_than(1):
            self._be_alone()
            return
        self.phase = Phase.JOINED
        self._watch.begin(self._clock())
        self._emit(Joined(len(self._table)))
        self.refresh()
        self._on_joined(lookup)

    def _check_company(self) -> None:
        if self.phase is Phase.JOINED and self._table.has_fewer_than(1):
            self._be_alone()

    def _be_alone(self) -> None:
        self.phase = Phase.ALONE
        self._schedule.cancel_all()
        self._watch.end()
        self._joining.retry(self._clock())

    def _probe(self, contact: Contact, *, crowded: bool = False) -> None:
        """Ping a contact: the least recently seen one of a full bucket, before it is replaced.

        ``crowded`` permits more pings at a time than others cause.
        """
        most = _MAX_SHOWN if crowded else _MAX_PROBES
        if contact.node_id in self._probing or len(self._probing) >= most:
            return
        self._probing.add(contact.node_id)
        on_answer = partial(self._probed, contact)
        self._calls.start(Ping(), contact.endpoint, contact.node_id, self._clock(), on_answer)

    def _probed(self, contact: Contact, answer: VerifiedReply | None) -> None:
        self._probing.discard(contact.node_id)
        if answer is None:
            self.silent(contact)
        else:
            self.met(answer.contact)
