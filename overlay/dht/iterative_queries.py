"""Run lookups and crawls: send their queries, deliver the answers, and end them in time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from overlay.dht.acceptance import Acceptance
from overlay.dht.calls import Calls, VerifiedReply
from overlay.dht.events import EventQueue
from overlay.dht.lookup import IterativeQuery, Query
from overlay.dht.membership import Membership
from overlay.dht.reach import Reach

__all__ = ["IterativeQueries", "OnFinished"]

OnFinished = Callable[[float], None]
"""Called at the end of a lookup or crawl with the time, to continue the work of its owner."""


@dataclass(eq=False, slots=True)
class _Active:
    walk: IterativeQuery
    on_finished: OnFinished
    finished: bool = False


class IterativeQueries:
    """Drive lookups and crawls through ``calls``.

    ``membership`` is told which contacts answered and which did not. ``acceptance`` removes
    contacts and records from replies that this node must not use. ``events`` receives the
    descriptors that were found. A query fails at once if this host does not ``reach`` its endpoint.
    """

    def __init__(
        self,
        calls: Calls,
        *,
        membership: Membership,
        acceptance: Acceptance,
        reach: Reach,
        events: EventQueue,
    ) -> None:
        self._calls = calls
        self._membership = membership
        self._acceptance = acceptance
        self._reach = reach
        self._events = events
        self._active: list[_Active] = []
        self._next = math.inf

    def __len__(self) -> int:
        return len(self._active)

    def launch(self, walk: IterativeQuery, now: float, on_finished: OnFinished) -> None:
        """Start a lookup or crawl.

        ``on_finished`` is called once, when it is complete or its time is over.
        """
        active = _Active(walk, on_finished)
        self._active.append(active)
        self._note_next()
        self._advance(active, now)

    def cancel_all(self) -> None:
        """Remove every lookup and crawl without calling ``on_finished``."""
        self._active.clear()
        self._note_next()

    def next_deadline(self) -> float:
        """Return the time at which the first lookup or crawl must end."""
        return self._next

    def handle_deadline(self, now: float) -> None:
        """End the lookups and crawls whose time is over."""
        for active in [one for one in self._active if one.walk.next_deadline() <= now]:
            self._advance(active, now)

    def _advance(self, active: _Active, now: float) -> None:
        if active.finished:
            return
        out_of_reach = True
        while out_of_reach:
            out_of_reach = False
            for query in active.walk.queries(now):
                if self._reach.holds(query.contact.endpoint):
                    self._start(active, query, now)
                else:
                    active.walk.failed(query)
                    out_of_reach = True
        if active.walk.finished(now):
            active.finished = True
            self._active.remove(active)
            self._note_next()
            active.on_finished(now)

    def _start(self, active: _Active, query: Query, now: float) -> None:
        contact, request = query
        on_answer = partial(self._answered, active, query)
        on_slow = partial(self._slow, active, query)
        self._calls.start(request, contact.endpoint, contact.node_id, now, on_answer, on_slow)

    def _note_next(self) -> None:
        """Cache the earliest end, because it is read after every datagram and rarely changes."""
        self._next = min((each.walk.next_deadline() for each in self._active), default=math.inf)

    def _slow(self, active: _Active, query: Query, now: float) -> None:
        active.walk.slow(query)
        self._advance(active, now)

    def _answered(
        self, active: _Active, query: Query, answer: VerifiedReply | None, now: float
    ) -> None:
        if answer is None:
            self._membership.silent(query.contact, now)
            active.walk.failed(query)
        else:
            self._membership.met(answer.contact, now)
            reply = self._acceptance.filtered(answer.reply)
            self._events.extend(active.walk.answered(query, reply, now))
        self._advance(active, now)
