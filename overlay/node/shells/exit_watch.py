"""Review the exit at start, soon after a change of the host, and at intervals.

A review runs filter programs, which takes tens of milliseconds. So it runs in a thread, and the
node carries packets meanwhile. Only one review runs at a time, and nothing else changes the exit's
filter.
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
"""Interval of reviews. It is needed for legacy iptables, which sends no notifications."""

_AGAIN_S: Final = 3.0
"""Wait after a failed review. A firewall that was being reloaded is complete after this time."""

_SETTLING_S: Final = 1.0
"""Wait after a change. Changes of a host come in groups, and one review covers a group."""

_log = EventLog(__name__)

SOURCE_DEVICES: Final = "anon"
"""Prefix of the names of a source's devices, which come and go with its circuits."""

OWN_DEVICES: Final = (SOURCE_DEVICES, "exit")
"""Prefixes of the names of a node's own devices; their addresses change with every circuit."""

_LOCAL_TABLE: Final = 255
"""The kernel's table of local addresses (RT_TABLE_LOCAL). Changes of addresses have their own
notifications."""


class ExitWatch:
    """Run the reviews of an exit and report their results."""

    def __init__(
        self,
        role: ExitRole,
        prepare: Callable[[], None],
        *,
        lent: Callable[[], None],
        changed: Callable[[], None],
    ) -> None:
        """Store the arguments; the first review is that of :meth:`begin`.

        Args:
            role: the exit to review.
            prepare: called before each review, in the same thread.
            lent: called in the event loop when ``role.lent`` may have changed.
            changed: called in the event loop when the signed IP versions or refused networks of
                the host's links have changed.
        """
        self._role = role
        self._prepare = prepare
        self._lent = lent
        self._changed = changed
        self._failing = False

    def begin(self) -> None:
        """Run the first review, before anything is signed.

        Raises:
            ConfigurationError: this host uses a pool of inner addresses for something else.
            BackendError: the kernel could not be read, or it refused a change.
        """
        self._role.check_pools()
        self._examine()
        self._tell()

    async def run(self) -> None:
        """Repeat reviews until cancelled."""
        with ExitStack() as opened:
            try:
                notices = opened.enter_context(HostNotices())
            except BackendError:
                notices = None  # reviews at intervals do not need notifications
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
    """Wait for a change of the host that concerns an exit, and then for those that follow it."""
    if notices is None:
        await trio.sleep_forever()
        return
    while not concerns_exit(await notices.receive()):
        pass
    await trio.sleep(_SETTLING_S)
    notices.drain()


def concerns_exit(events: Iterable[HostEvent], name_of: Callable[[int], str] | None = None) -> bool:
    """Tell whether routes, addresses, devices or filters changed, other than those of circuits.

    ``name_of`` returns the name of the device with an index; the default asks the kernel.
    """
    return any(_concerns(event, name_of or _device_name) for event in events)


def _concerns(event: HostEvent, name_of: Callable[[int], str]) -> bool:
    match event:
        case FilterChanged() | RuleChanged() | Overrun():
            return True
        case LinkChanged(name=name):
            # Circuits never change the exit's device, but routes leave with it.
            return not name.startswith(SOURCE_DEVICES)
        case AddressChanged(index=index):
            return not name_of(index).startswith(OWN_DEVICES)
        case RouteChanged(table=table, index=index):
            return table != _LOCAL_TABLE and not name_of(index).startswith(OWN_DEVICES)
        case _:
            return False


def _device_name(index: int) -> str:
    """Return the name of a device, or "" if it no longer exists."""
    with contextlib.suppress(OSError):
        return socket.if_indextoname(index)
    return ""
