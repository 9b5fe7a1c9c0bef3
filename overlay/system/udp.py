"""The one UDP socket of a node, in batches and without waiting to send.

::

    kernel ──recvmsg (GRO)──> split ──> [(datagram, from), ...]     one wait a batch
    [(datagram, to), ...] ──runs──> sendmsg (GSO) ──> kernel        never waits

It behaves as a network does: what does not fit into the kernel's buffer is dropped and
counted, and what the kernel refuses for one destination concerns that datagram alone.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, Self

import trio

from overlay.addresses import Endpoint
from overlay.errors import BackendError
from overlay.system.failures import refused
from overlay.system.segmentation import Run, runs_of, split_segments

__all__ = ["UdpSocket", "bound_socket", "close_waking"]

# From Linux's uapi headers; the socket module of Python 3.11 lacks them.
_UDP_SEGMENT: Final = 103
_UDP_GRO: Final = 104
_SO_SNDBUFFORCE: Final = 32
_SO_RCVBUFFORCE: Final = 33
_SO_MARK: Final = 36
_IP_MTU_DISCOVER: Final = 10
_IPV6_MTU_DISCOVER: Final = 23
_PMTUDISC_DONT: Final = 0

_BUFFER_BYTES: Final = 8 * 1024 * 1024
"""A tenth of a second at 640 Mbit/s; the kernel counts its own overhead against it."""

_READS_PER_BATCH: Final = 32
"""Bounds a batch to 32 * 64 datagrams, some tens of milliseconds of work."""

_RECEIVE_BYTES: Final = 65_536
_CONTROL_BYTES: Final = socket.CMSG_SPACE(4)

_GSO_REFUSALS: Final = frozenset((errno.EINVAL, errno.EMSGSIZE, errno.EIO, errno.EOPNOTSUPP))
"""Segments above the path's MTU, no checksum offload, a kernel without UDP_SEGMENT."""


class UdpSocket:
    """A UDP socket bound to one endpoint; a context manager, owned by one task group.

    ``counters`` holds coarse totals: ``received``, ``sent``, ``dropped_buffer_full`` and one
    ``dropped_ERRNO`` for each errno that the kernel answered with; never an address.
    """

    def __init__(self, bound: socket.socket) -> None:
        """Take over a socket of :func:`bound_socket`; most callers want :meth:`open`."""
        self._socket = bound
        self._buffer = bytearray(_RECEIVE_BYTES)
        self._view = memoryview(self._buffer)
        self.counters: Counter[str] = Counter()
        self.segments_received = _try_option(bound, socket.IPPROTO_UDP, _UDP_GRO, 1)
        self.segments_sent = _try_option(bound, socket.IPPROTO_UDP, _UDP_SEGMENT, 0)

    @classmethod
    def open(cls, endpoint: Endpoint, *, mark: int | None = None) -> Self:
        """Bind to ``endpoint`` (IPv4 or IPv6; port 0 lets the kernel choose).

        Args:
            endpoint: a local address, or the wildcard of its family.
            mark: the firewall mark of all datagrams, by which the destination guard knows
                them as the node's own; left out where the process may not set one.

        Raises:
            BackendError: the port is taken, the address not ours, or the port privileged.
        """
        return cls(bound_socket(endpoint, mark=mark))

    @property
    def local(self) -> Endpoint:
        """The endpoint that the socket is bound to."""
        host, port = self._socket.getsockname()[:2]
        return Endpoint(host, port)

    async def receive_batch(self) -> list[tuple[bytes, Endpoint]]:
        """Wait until something arrived, then return it all, up to a bound.

        The batch is empty if what arrived was an error of the kernel's. Cancelling loses
        nothing: after the wait there is no further checkpoint.

        Raises:
            trio.ClosedResourceError: the socket was closed.
        """
        if self._socket.fileno() < 0:
            raise trio.ClosedResourceError
        await trio.lowlevel.wait_readable(self._socket)
        batch: list[tuple[bytes, Endpoint]] = []
        for _ in range(_READS_PER_BATCH):
            if not self._receive_into(batch):
                break
        self.counters["received"] += len(batch)
        return batch

    def send_batch(self, batch: Sequence[tuple[bytes, Endpoint]]) -> None:
        """Hand a batch to the kernel, in order; never waits, never raises for a destination."""
        for run in runs_of(batch):
            if len(run.datagrams) == 1 or not self.segments_sent:
                self._send_singly(run)
            else:
                self._send_run(run)

    def prepare(self, change: Callable[[socket.socket], None]) -> None:
        """Let somebody set options of the socket that end the aggregation of what it receives.

        Raises:
            BackendError: as ``change`` does.
        """
        change(self._socket)
        self.segments_received = False

    def close(self) -> None:
        """Close the socket; a task that waits in :meth:`receive_batch` is woken."""
        close_waking(self._socket)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _receive_into(self, batch: list[tuple[bytes, Endpoint]]) -> bool:
        try:
            size, control, _, sender = self._socket.recvmsg_into([self._buffer], _CONTROL_BYTES)
        except BlockingIOError:
            return False
        except OSError as error:  # an ICMP error that the kernel kept for us
            self._count(error, 1)
            return False
        endpoint = Endpoint(sender[0], sender[1])
        if "%" in endpoint.host:  # a link-local sender: nobody whom we could answer by address
            self.counters["dropped_link_local"] += 1
            return True
        for datagram in split_segments(self._view[:size], _segment_bytes(control)):
            batch.append((datagram, endpoint))  # noqa: PERF401 - extend() would build it twice
        return True

    def _send_run(self, run: Run) -> None:
        size = [(socket.IPPROTO_UDP, _UDP_SEGMENT, struct.pack("=H", run.segment_bytes))]
        try:
            self._socket.sendmsg(run.datagrams, size, 0, run.endpoint)
        except OSError as error:
            if error.errno in _GSO_REFUSALS:
                self._send_singly(run)
            else:
                self._count(error, len(run.datagrams))
        else:
            self.counters["sent"] += len(run.datagrams)

    def _send_singly(self, run: Run) -> None:
        for datagram in run.datagrams:
            try:
                self._socket.sendto(datagram, run.endpoint)
            except OSError as error:
                self._count(error, 1)
            else:
                self.counters["sent"] += 1

    def _count(self, error: OSError, datagrams: int) -> None:
        if error.errno in (errno.EAGAIN, errno.ENOBUFS):
            self.counters["dropped_buffer_full"] += datagrams
        else:
            name = errno.errorcode.get(error.errno or 0, "unknown")
            self.counters[f"dropped_{name}"] += datagrams


def bound_socket(endpoint: Endpoint, *, mark: int | None = None) -> socket.socket:
    """Return a non-blocking UDP socket, bound and with the options that the overlay needs.

    Outer fragmentation is allowed (no "don't fragment"): a link SA's packets may exceed the
    path MTU, and an ICMP error of a stranger must not lower our packet size.

    Raises:
        BackendError: see :meth:`UdpSocket.open`.
    """
    ipv6 = ":" in endpoint.host
    try:
        new = socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
    except OSError as error:
        raise refused("opening a UDP socket", error) from error
    try:
        new.settimeout(0)
        if ipv6:
            new.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            _try_option(new, socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_DONT)
        else:
            _try_option(new, socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DONT)
        _enlarge_buffers(new)
        if mark is not None:
            _try_option(new, socket.SOL_SOCKET, _SO_MARK, mark)
        new.bind(endpoint)
    except OSError as error:
        new.close()
        raise _bind_error(endpoint, error) from error
    except BaseException:
        new.close()
        raise
    return new


def close_waking(used: socket.socket) -> None:
    """Close a socket; a task that waits for it is woken with ``trio.ClosedResourceError``."""
    if used.fileno() >= 0:
        with contextlib.suppress(RuntimeError):  # outside trio nobody waits
            trio.lowlevel.notify_closing(used)
    used.close()


def _enlarge_buffers(new: socket.socket) -> None:
    for forced, polite in (
        (_SO_RCVBUFFORCE, socket.SO_RCVBUF),
        (_SO_SNDBUFFORCE, socket.SO_SNDBUF),
    ):
        if not _try_option(new, socket.SOL_SOCKET, forced, _BUFFER_BYTES):
            _try_option(new, socket.SOL_SOCKET, polite, _BUFFER_BYTES)


def _try_option(target: socket.socket, level: int, option: int, value: int) -> bool:
    """Set an option that the kernel may lack or reserve to root; tell whether it took it."""
    try:
        target.setsockopt(level, option, value)
    except OSError:
        return False
    return True


def _segment_bytes(control: list[tuple[int, int, bytes]]) -> int:
    for level, kind, data in control:
        if level == socket.IPPROTO_UDP and kind == _UDP_GRO and len(data) >= 4:
            return int(struct.unpack_from("=i", data)[0])
    return 0


_BIND_REMEDIES: Final = {
    errno.EADDRINUSE: "another program has this port, so stop it or set another port",
    errno.EADDRNOTAVAIL: "this host has no such address, so set one that `ip address` shows",
    errno.EACCES: "ports below 1024 need root, so set a higher port",
    errno.EPERM: "ports below 1024 need root, so set a higher port",
}


def _bind_error(endpoint: Endpoint, error: OSError) -> BackendError:
    return refused(f"listening on UDP {endpoint}", error, _BIND_REMEDIES.get(error.errno or 0, ""))
