"""Run lookups and crawls: send their queries, deliver the answers, and end them in time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from overlay.addresses import Endpoint
from overlay.dht.calls import Calls, VerifiedReply
from overlay.dht.lookup import IterativeQuery, Query
from overlay.dht.messages import Contact, Reply

__all__ = ["IterativeQueries"]


@dataclass(eq=False, slots=True)
class _Active:
    walk: IterativeQuery
    on_finished: Callable[[], None]
    finished: bool = False


class IterativeQueries:
    """Drive lookups and crawls through ``calls``.

    ``on_answer`` gets every answer first and returns the acceptable part of the reply.
    ``on_silence`` gets the contacts that did not answer. A query fails at once if this host does
    not ``reach`` its endpoint. The core limits the number of walks.
    """

    def __init__(
        self,
        calls: Calls,
        clock: Callable[[], float],
        *,
        on_answer: Callable[[VerifiedReply], Reply],
        on_silence: Callable[[Contact], None],
        reaches: Callable[[Endpoint], bool] = lambda _: True,
    ) -> None:
        self._calls = calls
        self._clock = clock
        self._on_answer = on_answer
        self._on_silence = on_silence
        self._reaches = reaches
        self._active: list[_Active] = []
        self._next = math.inf

    def __len__(self) -> int:
        return len(self._active)

    def launch(self, walk: IterativeQuery, on_finished: Callable[[], None]) -> None:
        """Start a walk; ``on_finished`` is called once, when it is complete or its time is over."""
        active = _Active(walk, on_finished)
        self._active.append(active)
        self._note_next()
        self._advance(active)

    def cancel_all(self) -> None:
        """Forget every walk without calling ``on_finished``."""
        self._active.clear()
        self._note_next()

    def next_deadline(self) -> float:
        """Return the end of time of the walk that ends first."""
        return self._next

    def handle_deadline(self, now: float) -> None:
        """End the walks whose time is over."""
        for active in [one for one in self._active if one.walk.next_deadline() <= now]:
            self._advance(active)

    def _advance(self, active: _Active) -> None:
        if active.finished:
            return
        now = self._clock()
        out_of_reach = True
        while out_of_reach:
            out_of_reach = False
            for query in active.walk.queries(now):
                if self._reaches(query.contact.endpoint):
                    self._start(active, query, now)
                else:
                    active.walk.failed(query)
                    out_of_reach = True
        if active.walk.finished(now):
            active.finished = True
            self._active.remove(active)
            self._note_next()
            active.on_finished()

    def _start(self, active: _Active, query: Query, now: float) -> None:
        contact, request = query
        on_answer = partial(self._answered, active, query)
        on_slow = partial(self._slow, active, query)
        self._calls.start(request, contact.endpoint, contact.node_id, now, on_answer, on_slow)

    def _note_next(self) -> None:
        """Cache the earliest end, because it is read after every datagram and rarely changes."""
        self._next = min((each.walk.next_deadline() for each in self._active), default=math.inf)

    def _slow(self, active: _Active, query: Query) -> None:
        active.walk.slow(query)
        self._advance(active)

    def _answered(self, active: _Active, query: Query, answer: VerifiedReply | None) -> None:
        if answer is None:
            self._on_silence(query.contact)
            active.walk.failed(query)
        else:
            active.walk.answered(query, self._on_answer(answer))
        self._advance(active)
