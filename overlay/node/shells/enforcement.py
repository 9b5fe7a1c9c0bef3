"""Keep the node's state in the kernel, and restore what other programs remove.

Other programs flush packet filters, rules, routes, policies and addresses. ::

    kernel ──notifications──> check: every part compares the kernel with what it wants,
    twice a second: missing? ───┘    restores what is missing, and names it ──> log, counter

A check that finds nothing missing changes nothing. So the node's own changes cause one further
check, and not a loop. A single change is handled at once. If another program removes state again
and again, the checks take about one tenth of a processor (:mod:`overlay.node.check_budget`). A
repair that the host refused is repeated at each change of the host, and in between after waits
that double.

Reasons: docs/decisions/0036.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from typing import Final, Protocol

import trio

from overlay.errors import BackendError
from overlay.logs import EventLog, Word
from overlay.node.check_budget import CheckBudget
from overlay.system.host_events import HostEvent, Overrun
from overlay.system.host_notices import HostNotices

__all__ = ["Enforced", "Enforcement"]

_LOOK_S: Final = 0.5
"""Interval of the short check of what has no notifications: legacy iptables, kernel settings."""

_FULL_CHECK_S: Final = 30.0
"""Interval of complete checks without a notification."""

_LEAST_PAUSE_S: Final = 0.02
"""Least pause after a check. A flush of one ruleset causes about ten notifications, which one check
handles together."""

_MOST_PAUSE_S: Final = 0.7
"""Longest pause after a check without errors. If a check takes less than 0.2 s, a repair follows
its reason within one second."""

_SHARE: Final = 9
"""After a refused repair the pause is this many times as long as the check."""

_FIRST_RETRY_S: Final = 0.5
_MOST_RETRY_S: Final = 5.0
"""The wait after a refused repair doubles from ``_FIRST_RETRY_S`` to ``_MOST_RETRY_S``. The latter
also bounds the pause after such a check: a check that waits for the lock of another program stops
the node for that time."""

_LINES_LOGGED: Final = 20
"""Number of repairs of one kind that are logged singly; later, every hundredth is logged."""

_log = EventLog(__name__)


class Enforced(Protocol):
    """An owner of state in the kernel. Every call may raise ``BackendError``."""

    def hear(self, events: Collection[HostEvent]) -> None:
        """Note changes of the host; :meth:`repair` follows."""
        ...

    def disturbed(self) -> bool:
        """Tell whether something is missing for which there are no events.

        It takes less than a millisecond, because it is called twice a second.
        """
        ...

    def missing(self) -> tuple[str, ...]:
        """Return the names of missing kernel state, without changing anything."""
        ...

    def repair(self) -> tuple[str, ...]:
        """Restore missing kernel state; return the names of what was missing."""
        ...


class Enforcement:
    """Check and repair several parts of the node's kernel state, in one task.

    ``repaired`` counts repairs by name. ``refused`` counts repairs that the host refused.
    """

    def __init__(
        self, parts: Sequence[Enforced], checked: Callable[[], None] = lambda: None
    ) -> None:
        """Store the parts in the order of their repair; ``checked`` is called after each check."""
        self._parts = tuple(parts)
        self._checked = checked
        self.repaired: Counter[str] = Counter()
        self.refused = 0
        self._failures = 0
        self._is_deaf = False
        self._budget = CheckBudget()

    def missing(self) -> tuple[str, ...]:
        """Read the kernel and return the names of what is missing.

        Raises:
            BackendError: the kernel could not be read.
        """
        return tuple(dict.fromkeys(name for part in self._parts for name in part.missing()))

    def check(self, events: Collection[HostEvent] = ()) -> None:
        """Restore what is missing in every part; later checks repeat what the host refused."""
        failed = False
        for part in self._parts:
            try:
                part.hear(events)
                self._count(part.repair())
            # A part that forgets to translate an OSError must not end the task.
            except (BackendError, OSError) as error:
                failed = True
                self.refused += 1
                if not self._failures:
                    _log.warning("kill_switch.not_repaired", reason=Word(error))
        self._failures = self._failures + 1 if failed else 0
        self._checked()

    async def run(self) -> None:
        """Check after each change of the host, until cancelled."""
        last = trio.current_time()
        while True:
            with ExitStack() as opened:
                notices = self._opened_notices(opened)
                # Changes before the sockets were opened had no notification: check everything.
                events: Collection[HostEvent] | None = (Overrun(),)
                while True:
                    began = trio.current_time()
                    if events is not None:
                        self.check(events)
                        last = began
                    await trio.sleep(self._pause(trio.current_time() - began))
                    try:
                        events = await self._reason(notices, last)
                    except BackendError as error:  # a notification socket failed: open new ones
                        self._note_deaf(error)
                        await trio.sleep(_LOOK_S)
                        break
                    if notices is None:
                        break

    def _opened_notices(self, opened: ExitStack) -> HostNotices | None:
        """Open the kernel's notifications; return None if that fails, so that all is read."""
        try:
            notices = opened.enter_context(HostNotices())
        except BackendError as error:
            self._note_deaf(error)
            return None
        return notices

    def _note_deaf(self, error: BackendError) -> None:
        if not self._is_deaf:
            _log.warning("kill_switch.no_notifications", reason=Word(error))
        self._is_deaf = True

    def _pause(self, cost: float) -> float:
        pause = self._budget.pause_after(cost, trio.current_time())
        if self._failures:
            return min(max(_SHARE * cost, _LEAST_PAUSE_S), _MOST_RETRY_S)
        return min(max(pause, _LEAST_PAUSE_S), _MOST_PAUSE_S)

    async def _reason(
        self, notices: HostNotices | None, last: float
    ) -> Collection[HostEvent] | None:
        """Wait up to ``_LOOK_S`` for a reason to check.

        Returns:
            The events to check for, or None if there is no reason. ``Overrun`` stands for
            unknown changes, so every part reads the kernel.
        """
        if notices is None:
            await trio.sleep(_LOOK_S)
            return (Overrun(),)
        events: list[HostEvent] = []
        with trio.move_on_after(_LOOK_S):
            events = await notices.receive()
        self._is_deaf = False
        if events:
            # Related notifications follow within this time.
            await trio.sleep(_LEAST_PAUSE_S)
            return [*events, *notices.drain()]
        since = trio.current_time() - last
        if self._failures:
            again = since >= min(_FIRST_RETRY_S * 2 ** (self._failures - 1), _MOST_RETRY_S)
        else:
            again = since >= _FULL_CHECK_S or self._disturbed()
        return (Overrun(),) if again else None

    def _disturbed(self) -> bool:
        try:
            return any(part.disturbed() for part in self._parts)
        except (BackendError, OSError):
            return True

    def _count(self, names: Sequence[str]) -> None:
        for name in names:
            self.repaired[name] += 1
            count = self.repaired[name]
            if count <= _LINES_LOGGED or count % 100 == 0:
                _log.warning("kill_switch.repaired", what=Word(name), times=count)
