"""Sockets for the kernel's notifications about changes on this host.

::

    kernel ──netlink groups──> sockets ──one epoll──> receive() ──parse_events──> events

See ``overlay.system.host_events`` for what the events mean.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
from contextlib import ExitStack
from typing import Final, Self

import trio

from overlay.system.failures import refused
from overlay.system.host_events import GROUPS, HostEvent, NetlinkProtocol, Overrun, parse_events
from overlay.system.netlink_messages import RECEIVE_BYTES

__all__ = ["HostNotices"]

_SOL_NETLINK: Final = 270
_NETLINK_ADD_MEMBERSHIP: Final = 1
_SO_RCVBUFFORCE: Final = 33
_BUFFER_BYTES: Final = 1 << 20
"""Room for a few thousand notifications, as when a container engine starts 100 containers."""

_DATAGRAMS_PER_BATCH: Final = 256
"""Limits how long other tasks wait; the next call reads the rest."""


class HostNotices:
    """Notifications of this network namespace; a context manager with one reader.

    ``unheard`` has the families to which this process may not listen. IPsec and the packet filter
    require CAP_NET_ADMIN.
    """

    def __init__(self) -> None:
        """Subscribe.

        Raises:
            BackendError: the kernel has no rtnetlink, or too many files are open.
        """
        self._sockets: dict[int, tuple[NetlinkProtocol, socket.socket]] = {}
        self.unheard: tuple[NetlinkProtocol, ...] = ()
        with ExitStack() as opened:
            self._epoll = opened.enter_context(select.epoll())
            for family, groups in GROUPS.items():
                self._subscribe(opened, family, groups)
            self._opened = opened.pop_all()

    async def receive(self) -> list[HostEvent]:
        """Wait until something changes, then return the events, each once, up to a limit.

        Raises:
            trio.ClosedResourceError: the subscription was closed.
            BackendError: a socket failed.
        """
        if self._epoll.closed:
            raise trio.ClosedResourceError
        await trio.lowlevel.wait_readable(self._epoll.fileno())
        return self.drain()

    def drain(self) -> list[HostEvent]:
        """Return the events that have arrived, without waiting."""
        found: dict[HostEvent, None] = {}
        for descriptor, _ in self._epoll.poll(0):
            family, notices = self._sockets[descriptor]
            for _ in range(_DATAGRAMS_PER_BATCH):
                data = _read(notices)
                if data is None:
                    found[Overrun()] = None
                elif data:
                    found.update(dict.fromkeys(parse_events(family, data)))
                else:
                    break
        return list(found)

    def close(self) -> None:
        """End the subscription; a task that waits in :meth:`receive` is woken."""
        if not self._epoll.closed:
            with contextlib.suppress(RuntimeError):  # outside trio no task waits
                trio.lowlevel.notify_closing(self._epoll.fileno())
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _subscribe(
        self, opened: ExitStack, family: NetlinkProtocol, groups: tuple[int, ...]
    ) -> None:
        try:
            notices = _joined(family, groups)
        except OSError as error:
            if family is NetlinkProtocol.ROUTE:
                raise refused("listening to the kernel's notifications", error) from error
            self.unheard = (*self.unheard, family)
            return
        opened.callback(notices.close)
        self._sockets[notices.fileno()] = family, notices
        self._epoll.register(notices.fileno(), select.EPOLLIN)


def _joined(family: NetlinkProtocol, groups: tuple[int, ...]) -> socket.socket:
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    new = socket.socket(socket.AF_NETLINK, kind, family.value)
    with ExitStack() as on_failure:
        on_failure.callback(new.close)
        with contextlib.suppress(OSError):  # only root may exceed the usual limit
            new.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        new.bind((0, 0))
        for group in groups:
            new.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
        on_failure.pop_all()
    return new


def _read(notices: socket.socket) -> bytes | None:
    """Return the next datagram, nothing (b"") if there is none, or None after an overrun.

    Raises:
        BackendError: the socket failed.
    """
    try:
        return notices.recv(RECEIVE_BYTES)
    except BlockingIOError:
        return b""
    except OSError as error:
        if error.errno == errno.ENOBUFS:
            return None
        raise refused("reading the kernel's notifications", error) from error
