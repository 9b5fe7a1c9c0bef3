"""Serve requests for paths that arrive together by one change of the kill switch.

A change of the packet filters takes a third of a second, and the node does nothing else meanwhile.
Fifty commands at once would wait for fifty changes::

    request ──┐
    request ──┼──> no further one? ──> block all destinations by one change ──> begin circuits
    request ──┘
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from overlay.paths.requested_path import PathTerms, RequestedPath

__all__ = ["SharedRequests"]

_QUIET_ROUNDS: Final = 20
"""Rounds of the event loop without a further request, after which the requests are served. In each
round trio accepts one connection and reads what has arrived; a request needs about six rounds. A
round without work takes less than 0.1 ms."""

Outcome = list[RequestedPath] | Exception
OpenEach = Callable[[Sequence[Sequence[PathTerms]]], list[Outcome]]


@dataclass(slots=True)
class _Waiting:
    all_terms: Sequence[PathTerms]
    outcome: Outcome = field(default_factory=list)
    done: trio.Event = field(default_factory=trio.Event)


class SharedRequests:
    """The requests that wait for the next change of the kill switch."""

    def __init__(self, open_each: OpenEach) -> None:
        """Prepare; ``open_each`` returns the outcome of each of several requests."""
        self._open_each = open_each
        self._waiting: list[_Waiting] = []

    async def request(self, all_terms: Sequence[PathTerms]) -> list[RequestedPath]:
        """Request paths together with the other requests of this moment.

        The wait cannot be cancelled, because a path that was made needs its caller. It ends with
        one change.

        Raises:
            OverlayError: see :meth:`overlay.paths.paths.Paths.open_paths`.
        """
        own = _Waiting(all_terms)
        self._waiting.append(own)
        with trio.CancelScope(shield=True):
            if self._waiting[0] is own:  # the first one serves all
                await self._gather()
                self._serve()
            await own.done.wait()
        if isinstance(own.outcome, Exception):
            raise own.outcome
        return own.outcome

    async def _gather(self) -> None:
        known = quiet = 0
        while quiet < _QUIET_ROUNDS:
            quiet = quiet + 1 if len(self._waiting) == known else 0
            known = len(self._waiting)
            await trio.lowlevel.checkpoint()

    def _serve(self) -> None:
        served, self._waiting = self._waiting, []
        try:
            outcomes = self._open_each([each.all_terms for each in served])
            for each, outcome in zip(served, outcomes, strict=True):
                each.outcome = outcome
        except Exception as error:
            for each in served:
                each.outcome = error
        finally:
            for each in served:
                each.done.set()
