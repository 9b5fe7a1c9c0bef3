"""When the exit is reviewed: at start, soon after a change of the host, and at intervals.

A review runs filter programs, which takes tens of milliseconds, so it runs in a thread: packets go
on meanwhile. Only one review runs at a time, and nothing else touches the exit's filter.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Final

import trio

from overlay.errors import BackendError
from overlay.logs import EventLog, Word
from overlay.node.exit_role import ExitRole
from overlay.system.host_events import (
    AddressChanged,
    FilterChanged,
    HostEvent,
    LinkChanged,
    Overrun,
    RouteChanged,
    RuleChanged,
)
from overlay.system.host_notices import HostNotices

__all__ = ["OWN_DEVICES", "ExitWatch", "concerns_exit"]

_INTERVAL_S: Final = 6.0
"""Changes are told at once, except by legacy iptables, which tells of nothing."""

_AGAIN_S: Final = 3.0
"""After a failed review; a firewall that is loaded anew is there by then."""

_SETTLING_S: Final = 1.0
"""Changes of a host come in crowds: the exit is reviewed once for those of this time."""

_log = EventLog(__name__)

OWN_DEVICES: Final = ("anon", "exit")
"""What the names of a node's own devices begin with: they change with every circuit."""

_LOCAL_TABLE: Final = 255


class ExitWatch:
    """Owner of an exit's reviews."""

    def __init__(
        self,
        role: ExitRole,
        prepare: Callable[[], None],
        *,
        lent: Callable[[], None],
        changed: Callable[[], None],
    ) -> None:
        """Prepare; nothing is reviewed yet.

        Args:
            role: what is reviewed.
            prepare: called before each review, in the same thread.
            lent: called in the event loop when new circuits may have other IP versions than before.
            changed: called in the event loop when something else is offered than before.
        """
        self._role = role
        self._prepare = prepare
        self._lent = lent
        self._changed = changed
        self._failing = False

    def begin(self) -> None:
        """Review for the first time, before anything is signed.

        Raises:
            ConfigurationError: a pool of inner addresses is in use on this host.
            BackendError: the kernel does not tell, or refuses.
        """
        self._role.check_pools()
        self._examine()
        self._tell()

    async def run(self) -> None:
        """Review again and again, as long as the node runs."""
        with ExitStack() as opened:
            try:
                notices = opened.enter_context(HostNotices())
            except BackendError:
                notices = None
            while True:
                if self._role.doubted or self._failing:
                    await trio.sleep(_AGAIN_S)
                else:
                    with trio.move_on_after(_INTERVAL_S):
                        await _host_changed(notices)
                await self._review()

    async def _review(self) -> None:
        repaired, offered = self._role.repaired, self._role.offered
        links = self._role.own_links
        try:
            changed = await trio.to_thread.run_sync(self._examine)
        except BackendError as error:
            if not self._failing:
                _log.warning("exit.not_examined", reason=Word(error))
            changed, self._failing = self._role.not_reviewed(error), True
        else:
            self._failing = False
        if self._role.repaired > repaired:
            _log.warning("exit.repaired")
        if changed:
            self._lent()
        if self._role.offered != offered:
            self._tell()
        if (self._role.offered, self._role.own_links) != (offered, links):
            self._changed()

    def _examine(self) -> bool:
        self._prepare()
        return self._role.review()

    def _tell(self) -> None:
        withdrawn = [p for p in self._role.problems if p.version not in self._role.offered]
        for problem in withdrawn:
            _log.warning("exit.withdrawn", version=problem.version, cause=Word(problem.kind))
        if not self._role.problems:
            _log.info("exit.offered")


async def _host_changed(notices: HostNotices | None) -> None:
    """Return some time after the host has changed in a way that concerns an exit."""
    if notices is None:
        await trio.sleep_forever()
        return
    while not concerns_exit(await notices.receive()):
        pass
    await trio.sleep(_SETTLING_S)
    notices.drain()


def concerns_exit(events: Iterable[HostEvent], name_of: Callable[[int], str] | None = None) -> bool:
    """Tell whether routes, addresses, devices or filters changed that are not a circuit's."""
    return any(_concerns(event, name_of or _device_name) for event in events)


def _concerns(event: HostEvent, name_of: Callable[[int], str]) -> bool:
    match event:
        case FilterChanged() | RuleChanged() | Overrun():
            return True
        case LinkChanged(name=name):
            return not name.startswith(OWN_DEVICES)
        case AddressChanged(index=index):
            return not name_of(index).startswith(OWN_DEVICES)
        case RouteChanged(table=table, index=index):
            return table != _LOCAL_TABLE and not name_of(index).startswith(OWN_DEVICES)
        case _:
            return False


def _device_name(index: int) -> str:
    with contextlib.suppress(OSError):
        return socket.if_indextoname(index)
    return ""
