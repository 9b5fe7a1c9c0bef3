"""What the node has put into the kernel stays there: compared at each change, and put back.

Other programs flush packet filters, rules, routes, policies and addresses. ::

    kernel ──notifications──> check: every part compares the kernel with what it wants,
    twice a second: missing? ───┘    puts back what is missing, and names it ──> log, counter

A check whose parts find nothing changes nothing, so the node's own changes cause one check more
and no loop. If another program removes something again and again, checks take a tenth of one
processor at most. What the host refuses is tried again at each change of the host, and in between
after waits that double.

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
from overlay.system.host_events import HostEvent, Overrun
from overlay.system.host_notices import HostNotices

__all__ = ["Enforced", "Enforcement"]

_LOOK_S: Final = 0.5
"""How often to look for what no notification tells of: legacy iptables, kernel settings."""

_FULL_CHECK_S: Final = 30.0
"""How often to check everything without a reason."""

_LEAST_PAUSE_S: Final = 0.02
"""Changes come in crowds: a flush of one ruleset is some ten notifications."""

_MOST_PAUSE_S: Final = 0.7
"""Keeps a repair within a second of its reason, if a check takes less than 0.2 s."""

_SHARE: Final = 9
"""Pause so many times as long as the check took."""

_FIRST_RETRY_S: Final = 0.5
_MOST_RETRY_S: Final = 5.0
"""Bounds of the wait after a refused repair, which doubles; also of the pause then, because a check
that waits for the lock of another program stops the node for as long."""

_LINES_LOGGED: Final = 20
"""Repairs of one kind that are logged one by one; then each hundredth."""

_log = EventLog(__name__)


class Enforced(Protocol):
    """An owner of state in the kernel; every call may raise ``BackendError``."""

    def hear(self, events: Collection[HostEvent]) -> None:
        """Take note of what changed on the host, before :meth:`repair`."""
        ...

    def disturbed(self) -> bool:
        """Tell, within a millisecond, whether something is missing that no event tells of."""
        ...

    def missing(self) -> tuple[str, ...]:
        """Return the names of what the kernel does not hold; nothing is changed."""
        ...

    def repair(self) -> tuple[str, ...]:
        """Put back what is missing; return the names of what was."""
        ...


class Enforcement:
    """Owner of the task that keeps some parts in force.

    ``repaired`` counts, by name, what was put back; ``refused`` how often the host refused.
    """

    def __init__(
        self, parts: Sequence[Enforced], checked: Callable[[], None] = lambda: None
    ) -> None:
        """Prepare; ``checked`` is called after each check."""
        self._parts = tuple(parts)
        self._checked = checked
        self.repaired: Counter[str] = Counter()
        self.refused = 0
        self._failures = 0
        self._is_deaf = False

    def missing(self) -> tuple[str, ...]:
        """Return what is not in force at this moment, as the kernel tells.

        Raises:
            BackendError: the kernel did not tell.
        """
        return tuple(dict.fromkeys(name for part in self._parts for name in part.missing()))

    def check(self, events: Collection[HostEvent] = ()) -> None:
        """Put back what is missing in every part; what the host refuses is tried again."""
        failed = False
        for part in self._parts:
            try:
                part.hear(events)
                self._count(part.repair())
            except (BackendError, OSError) as error:  # an OSError here is one that no part expects
                failed = True
                self.refused += 1
                if not self._failures:
                    _log.warning("guard.not_repaired", reason=Word(error))
        self._failures = self._failures + 1 if failed else 0
        self._checked()

    async def run(self) -> None:
        """Check at each change of the host, for as long as the node runs."""
        last = trio.current_time()
        while True:
            with ExitStack() as opened:
                notices = self._opened_notices(opened)
                events: Collection[HostEvent] | None = (Overrun(),)  # what was before is unheard
                while True:
                    began = trio.current_time()
                    if events is not None:
                        self.check(events)
                        last = began
                    await trio.sleep(self._pause(trio.current_time() - began))
                    try:
                        events = await self._reason(notices, last)
                    except BackendError as error:  # a socket failed: open new ones
                        self._note_deaf(error)
                        await trio.sleep(_LOOK_S)
                        break
                    if notices is None:
                        break

    def _opened_notices(self, opened: ExitStack) -> HostNotices | None:
        """Return the kernel's notifications, or None if it gives none now: then all is read."""
        try:
            notices = opened.enter_context(HostNotices())
        except BackendError as error:
            self._note_deaf(error)
            return None
        return notices

    def _note_deaf(self, error: BackendError) -> None:
        if not self._is_deaf:
            _log.warning("guard.no_notifications", reason=Word(error))
        self._is_deaf = True

    def _pause(self, cost: float) -> float:
        most = _MOST_RETRY_S if self._failures else _MOST_PAUSE_S
        return min(max(_SHARE * cost, _LEAST_PAUSE_S), most)

    async def _reason(
        self, notices: HostNotices | None, last: float
    ) -> Collection[HostEvent] | None:
        """Wait for a reason to check; return the events, or None if there is none."""
        if notices is None:
            await trio.sleep(_LOOK_S)
            return (Overrun(),)
        events: list[HostEvent] = []
        with trio.move_on_after(_LOOK_S):
            events = await notices.receive()
        self._is_deaf = False
        if events:
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
                _log.warning("guard.repaired", what=Word(name), times=count)
