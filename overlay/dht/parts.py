"""The parts of the DHT core, each of which knows only those that are listed before it.

``DhtOutbox``, events and counts take what leaves. ``Calls`` has the requests under way,
``Membership`` the contacts and the phase, ``IterativeQueries`` the lookups and crawls under way.
``Lookups``, ``Publisher``, ``Crawling`` and ``Upkeep`` make this node's own work. ``Reachability``
tests endpoints. ``RequestResponder`` answers others, and ``DhtReception`` parses datagrams.

Reasons: docs/decisions/0060.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Protocol

from overlay.addresses import NodeId
from overlay.dht.acceptance import Acceptance
from overlay.dht.calls import Calls
from overlay.dht.clock_watch import ClockWatch
from overlay.dht.contacted import Contacted
from overlay.dht.crawling import Crawling
from overlay.dht.eclipse import EclipseWatch
from overlay.dht.envelope import Envelopes
from overlay.dht.events import DhtActivity, DhtCount, EventQueue
from overlay.dht.iterative_queries import IterativeQueries
from overlay.dht.lookups import Lookups
from overlay.dht.membership import Membership
from overlay.dht.outbox import DhtOutbox
from overlay.dht.publishing import Publisher
from overlay.dht.reach import KnownEndpoints, Reach
from overlay.dht.reachability import Reachability
from overlay.dht.reception import DhtReception
from overlay.dht.responder import RequestResponder
from overlay.dht.routing import Table
from overlay.dht.schedule import Schedule
from overlay.dht.settings import DhtSettings
from overlay.dht.storage import RecordCheck, RecordStore, VerifyRecord
from overlay.dht.upkeep import Upkeep
from overlay.identity import LocalIdentity
from overlay.work_budget import WorkBudget

__all__ = ["DhtParts"]


class Timed(Protocol):
    """A part with a deadline."""

    def next_deadline(self) -> float:
        """Return when something is due."""
        ...


class DhtParts:
    """The parts of one core, for the core and for ``overlay.dht.inspection``.

    The arguments are those of :class:`overlay.dht.core.Dht`.
    """

    def __init__(
        self,
        identity: LocalIdentity,
        *,
        network_id: str,
        settings: DhtSettings,
        rng: Random,
        known_endpoints: KnownEndpoints,
        envelopes: Envelopes,
        verify_record: VerifyRecord,
        budget: WorkBudget | None,
        draw_id: Callable[[], bytes] | None,
    ) -> None:
        own_id = identity.node_id
        contacted = Contacted()
        self.outbox = DhtOutbox(contacted)
        self.events = EventQueue()
        self.counts: Counter[DhtCount] = Counter()
        self.activity = DhtActivity()
        self.clock_watch = ClockWatch()
        self.reach = Reach(known_endpoints)
        self.acceptance = Acceptance(settings, self.reach, self.counts)
        self.table = Table(own_id, settings, rng)
        self.store = RecordStore(own_id, network_id, settings, verify_record)
        self.check = RecordCheck(verify_record, network_id, settings.identity_cost_bits)
        self.watch = EclipseWatch(settings.k)
        self.schedule = Schedule()
        self.calls = Calls(
            envelopes, settings, rng, self.outbox, self.counts, draw_id, self.clock_watch
        )
        self._make_own_work(own_id, settings, rng)
        self._make_service(own_id, settings, rng, envelopes, known_endpoints, budget, contacted)
        self.timed: tuple[Timed, ...] = (
            self.calls,
            self.walks,
            self.membership,
            self.schedule,
            self.reachability,
        )

    def _make_own_work(self, own_id: NodeId, settings: DhtSettings, rng: Random) -> None:
        """Make the parts that join, look up and publish."""
        self.membership = Membership(
            own_id,
            settings,
            rng,
            calls=self.calls,
            table=self.table,
            schedule=self.schedule,
            reach=self.reach,
            events=self.events,
        )
        self.walks = IterativeQueries(
            self.calls,
            membership=self.membership,
            acceptance=self.acceptance,
            reach=self.reach,
            events=self.events,
        )
        self.lookups = Lookups(
            own_id,
            settings,
            table=self.table,
            walks=self.walks,
            watch=self.watch,
            activity=self.activity,
            events=self.events,
        )
        self.publisher = Publisher(
            settings,
            rng,
            calls=self.calls,
            schedule=self.schedule,
            membership=self.membership,
        )
        self._make_tasks(own_id, settings, rng)

    def _make_tasks(self, own_id: NodeId, settings: DhtSettings, rng: Random) -> None:
        """Make the parts that run on schedule."""
        self.crawling = Crawling(
            own_id,
            settings,
            rng,
            table=self.table,
            store=self.store,
            walks=self.walks,
            watch=self.watch,
            membership=self.membership,
            reach=self.reach,
            schedule=self.schedule,
            verify=self.check,
            activity=self.activity,
            events=self.events,
            counts=self.counts,
        )
        self.upkeep = Upkeep(
            own_id,
            settings,
            rng,
            table=self.table,
            lookups=self.lookups,
            watch=self.watch,
            membership=self.membership,
            publisher=self.publisher,
            crawling=self.crawling,
            schedule=self.schedule,
        )

    def _make_service(
        self,
        own_id: NodeId,
        settings: DhtSettings,
        rng: Random,
        envelopes: Envelopes,
        known_endpoints: KnownEndpoints,
        budget: WorkBudget | None,
        contacted: Contacted,
    ) -> None:
        """Make the parts that receive datagrams and answer other nodes."""
        self.reachability = Reachability(
            own_id,
            envelopes,
            self.calls,
            rng,
            table=self.table,
            acceptance=self.acceptance,
            known_endpoints=known_endpoints,
            verified=self.check,
            reach=self.reach,
            contacted=contacted,
            events=self.events,
            counts=self.counts,
        )
        self.responder = RequestResponder(
            own_id,
            envelopes,
            settings,
            rng,
            table=self.table,
            store=self.store,
            counts=self.counts,
            reach=self.reach,
            known_endpoints=known_endpoints,
            budget=budget,
            helper=self.reachability,
        )
        self.reception = DhtReception(
            envelopes,
            allow_private=settings.allow_private_endpoints,
            acceptance=self.acceptance,
            calls=self.calls,
            responder=self.responder,
            counts=self.counts,
        )
