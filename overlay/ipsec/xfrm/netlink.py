"""Send requests to netlink's XFRM family in batches, and receive dumps and events.

One system call carries a whole batch. The kernel processes all requests in order before that call
returns, also after a request that failed. It answers each request that it refused, and the last one
in any case. Errors become one sentence (:func:`overlay.system.failures.refused`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from overlay.errors import BackendError
from overlay.ipsec.xfrm.messages import XFRMNLGRP_EXPIRE, MarshalXfrm
from overlay.system.failures import refused
from overlay.system.netlink_messages import (
    ACKNOWLEDGE,
    DONE,
    DUMP,
    ERROR,
    HEADER_BYTES,
    RECEIVE_BYTES,
    Frame,
    attributes,
    error_number,
    frames,
    message,
)

__all__ = [
    "CREATE",
    "NetlinkError",
    "Request",
    "XfrmEvents",
    "XfrmSocket",
    "open_socket",
    "refusal_error",
    "refusal_in",
]

CREATE: Final = 0x600
"""NLM_F_CREATE and NLM_F_EXCL: the kernel refuses an entry that exists with EEXIST."""

_NETLINK_XFRM: Final = 6
_SOL_NETLINK: Final = 270
_NETLINK_ADD_MEMBERSHIP: Final = 1
_NETLINK_CAP_ACK: Final = 10
_NETLINK_EXT_ACK: Final = 11
_SO_RCVBUFFORCE: Final = 33

_ATTRIBUTES_FOLLOW: Final = 0x200
_EXT_ACK_MESSAGE: Final = 1

_EVENT_BUFFER_BYTES: Final = 1 << 20
_MAX_SEQUENCE: Final = 0x7FFFFFFF
_BATCH: Final = 64
"""Requests in one datagram: 64 kB at most, so that the answers fit into the receive buffer."""

_USE_USERSPACE: Final = 'or set [ipsec] backend = "userspace"'
_REMEDIES: Final = {
    errno.ENOENT: f"the kernel lacks the algorithm, so load its module, {_USE_USERSPACE}",
    errno.ENOSYS: f"the kernel lacks the algorithm, so load its module, {_USE_USERSPACE}",
    errno.EEXIST: "another program has an entry of the same identity, so try again, which takes"
    " a new one",
    errno.ENOBUFS: "the kernel takes no more, at most five templates a policy: choose a shorter"
    " path or fewer circuits",
    errno.ENOMEM: "the kernel takes no more, so allow fewer circuits",
    errno.EPROTONOSUPPORT: "the kernel has no ESP, so load esp4 and esp6 (CONFIG_INET_ESP,"
    f" CONFIG_INET6_ESP), {_USE_USERSPACE}",
    errno.EINVAL: f"this kernel knows no such thing, so use a newer one, {_USE_USERSPACE}",
}

_LARGER_BUFFERS: Final = (
    "the socket's buffers are too small, so type: "
    "sysctl -w net.core.wmem_default=212992 net.core.rmem_default=212992"
)
_SOCKET_REMEDIES: Final = {errno.ENOBUFS: _LARGER_BUFFERS, errno.EMSGSIZE: _LARGER_BUFFERS}
"""For errors of the socket itself: ENOBUFS means that an answer was lost (netlink(7))."""


@dataclass(frozen=True, slots=True)
class Request:
    """A message to send: its type, the bytes after the header, and additional flags."""

    kind: int
    body: bytes
    flags: int = 0

    def encode(self, flags: int, sequence: int) -> bytes:
        """Return the whole message."""
        return message(self.kind, flags | self.flags, self.body, sequence)


@dataclass(frozen=True, slots=True)
class NetlinkError:
    """Why the kernel refused a request: errno, and the text of the kernel if it sent one."""

    number: int
    reason: str = ""


def refusal_error(operation: str, refusal: NetlinkError) -> BackendError:
    """Return the error for a refusal; the text of the kernel contains no address."""
    if refusal.reason:
        operation = f"{operation} ({refusal.reason})"
    error = OSError(refusal.number, os.strerror(refusal.number))
    return refused(operation, error, _REMEDIES.get(refusal.number, ""))


class XfrmSocket:
    """A socket for requests in this network namespace; a context manager."""

    def __init__(self) -> None:
        """Open it.

        Raises:
            BackendError: the kernel has no XFRM.
        """
        self._socket = open_socket(groups=())
        self._sequence = 0
        self._marshal = MarshalXfrm()

    def close(self) -> None:
        """Close the socket; installed entries stay."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, requests: Sequence[Request]) -> list[NetlinkError | None]:
        """Send requests; return for each one why the kernel refused it, or None for success.

        Raises:
            BackendError: the socket failed, so that no verdict is known.
        """
        verdicts: list[NetlinkError | None] = []
        for start in range(0, len(requests), _BATCH):
            verdicts += self._send_batch(requests[start : start + _BATCH])
        return verdicts

    def get(self, request: Request) -> tuple[Any, NetlinkError | None]:
        """Return the one message that answers a request, or why there is none."""
        with self._exchange("asking the kernel for an IPsec entry"):
            asked = self._transmit([request], 0)
            while True:
                data = self._socket.recv(RECEIVE_BYTES)
                for frame in frames(data):
                    if frame.sequence != asked:  # of a request whose answers were given up
                        continue
                    if frame.kind == ERROR:
                        return None, refusal_in(data, frame)
                    return _decode(self._marshal, data, frame), None

    def dump(self, request: Request) -> list[Any]:
        """Return all entries of a kind.

        Raises:
            BackendError: no permission, or no XFRM in the kernel.
        """
        operation = "listing the kernel's IPsec entries"
        found: list[Any] = []
        with self._exchange(operation):
            asked = self._transmit([request], DUMP)
            while True:
                data = self._socket.recv(RECEIVE_BYTES)
                for frame in frames(data):
                    if frame.sequence != asked:
                        continue
                    if frame.kind == DONE:
                        return found
                    if frame.kind == ERROR:
                        refusal = refusal_in(data, frame)
                        raise refusal_error(operation, refusal or NetlinkError(errno.EIO))
                    found.append(_decode(self._marshal, data, frame))

    def _send_batch(self, requests: Sequence[Request]) -> list[NetlinkError | None]:
        with self._exchange("changing the kernel's IPsec entries"):
            first = self._transmit(requests, 0, last=ACKNOWLEDGE)
            # After a failed read the queue may hold old answers: one counted for another
            # request would turn a refusal into "done".
            awaited = range(first, first + len(requests))
            verdicts: dict[int, NetlinkError | None] = {}
            while awaited[-1] not in verdicts:
                data = self._socket.recv(RECEIVE_BYTES)
                for frame in frames(data):
                    if frame.kind == ERROR and frame.sequence in awaited:
                        verdicts[frame.sequence] = refusal_in(data, frame)
        return [verdicts.get(sequence) for sequence in awaited]

    @contextlib.contextmanager
    def _exchange(self, operation: str) -> Iterator[None]:
        """Translate errors of the socket, and discard answers that wait after an error."""
        try:
            yield
        except OSError as error:
            self._drain()
            raise refused(operation, error, _SOCKET_REMEDIES.get(error.errno or 0, "")) from error

    def _drain(self) -> None:
        """Discard queued answers, because the kernel adds none to a full queue."""
        with contextlib.suppress(OSError):  # most likely EAGAIN, for there is none left
            while True:
                self._socket.recv(RECEIVE_BYTES, socket.MSG_DONTWAIT)

    def _transmit(self, requests: Sequence[Request], flags: int, *, last: int = 0) -> int:
        """Send all requests in one datagram; return the sequence number of the first.

        ``last`` are flags of the last request alone.
        """
        if self._sequence + len(requests) > _MAX_SEQUENCE:
            self._sequence = 0
        first, end = self._sequence + 1, self._sequence + len(requests)
        data = [
            each.encode(flags | last if sequence == end else flags, sequence)
            for sequence, each in enumerate(requests, first)
        ]
        self._sequence = end
        self._socket.send(b"".join(data))
        return first


class XfrmEvents:
    """A socket that receives the kernel's notices of expiring SAs; a context manager.

    ``fileno()`` is for waiting until it is readable; :meth:`drain` never waits. The kernel
    drops what does not fit into the buffer, so a reader compares with a dump after
    ``overrun``.
    """

    def __init__(
        self, groups: Iterable[int] = (XFRMNLGRP_EXPIRE,), *, buffer_bytes: int | None = None
    ) -> None:
        """Subscribe.

        Args:
            groups: what to be told of.
            buffer_bytes: how much may wait; by default as much as an expiry of all SAs.

        Raises:
            BackendError: the kernel has no XFRM, or there is no permission.
        """
        self._socket = open_socket(groups)
        self._socket.settimeout(0)
        if buffer_bytes is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        self._marshal = MarshalXfrm()
        self.overrun = False

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._socket.fileno()

    def close(self) -> None:
        """End the subscription."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def drain(self) -> list[Any]:
        """Return all messages that have arrived, in order."""
        found: list[Any] = []
        while True:
            try:
                data = self._socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                return found
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise refused("reading the kernel's IPsec events", error) from error
                self.overrun = True
                continue
            found += [
                _decode(self._marshal, data, frame)
                for frame in frames(data)
                if frame.kind in self._marshal.msg_map
            ]


def open_socket(groups: Iterable[int]) -> socket.socket:
    """Open a socket to the kernel's IPsec that receives the events of these multicast groups.

    Raises:
        BackendError: the kernel has no XFRM, or there is no permission for the groups.
    """
    operation = "opening a socket to the kernel's IPsec"
    remedy = f"use a kernel with CONFIG_XFRM_USER, {_USE_USERSPACE}"
    try:
        new = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_XFRM)
    except OSError as error:
        raise refused(operation, error, remedy) from error
    try:
        new.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        new.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        with contextlib.suppress(OSError):  # beyond the usual limit only for root
            new.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _EVENT_BUFFER_BYTES)
        new.bind((0, 0))
        for group in groups:
            new.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
    except OSError as error:
        new.close()
        raise refused(operation, error) from error
    return new


def _decode(marshal: MarshalXfrm, data: bytes, frame: Frame) -> Any:  # noqa: ANN401 - pyroute2 has no types
    decoded: Any = marshal.msg_map[frame.kind](data, offset=frame.start)
    decoded.decode()
    decoded["header"]["type"] = frame.kind
    return decoded


def refusal_in(data: bytes, frame: Frame) -> NetlinkError | None:
    """Parse an acknowledgement: errno, the request's header, then perhaps attributes."""
    number = error_number(data, frame.body)
    if number == 0:
        return None
    reason = b""
    if frame.flags & _ATTRIBUTES_FOLLOW:
        told = attributes(data[frame.body + 4 + HEADER_BYTES : frame.end])
        reason = told.get(_EXT_ACK_MESSAGE, b"").rstrip(b"\0")
    return NetlinkError(number, reason.decode(errors="replace").rstrip("."))
