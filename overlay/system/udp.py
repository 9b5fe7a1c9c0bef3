"""UDP sockets that receive and send in batches and never wait to send.

::

    kernel ──recvmsg (GRO)──> split ──> [(datagram, from), ...]     one wait a batch
    [(datagram, to), ...] ──runs──> sendmsg (GSO) ──> kernel        never waits

Sending behaves like a network. Datagrams that do not fit into the kernel's buffer are dropped and
counted. An error for one destination does not affect other datagrams.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Self

import trio

from overlay.addresses import Endpoint
from overlay.errors import BackendError
from overlay.system.failures import refused
from overlay.system.port_program import PortForms, Suspect
from overlay.system.receiving import DatagramReader
from overlay.system.return_addresses import Control, ReturnAddresses
from overlay.system.segmentation import Run, runs_of
from overlay.system.steering import split_port, steer

__all__ = ["UdpPort", "UdpSocket", "VersionMissing", "bound_socket", "close_waking"]

# From Linux's uapi headers; the socket module of Python 3.11 lacks them.
_UDP_SEGMENT: Final = 103
_UDP_GRO: Final = 104
_SO_SNDBUFFORCE: Final = 32
_SO_RCVBUFFORCE: Final = 33
_SO_MARK: Final = 36
_SO_MEMINFO: Final = 55
_MEMINFO: Final = struct.Struct("=9I")
"""``SK_MEMINFO_RMEM_ALLOC`` to ``SK_MEMINFO_DROPS`` (linux/sock_diag.h)."""

_IP_MTU_DISCOVER: Final = 10
_IPV6_MTU_DISCOVER: Final = 23
_AUTOFLOWLABEL: Final = 70
_PMTUDISC_DONT: Final = 0
_PMTUDISC_PROBE: Final = 3

_FREEBIND: Final = {False: (socket.IPPROTO_IP, 15), True: (socket.IPPROTO_IPV6, 78)}
"""IP_FREEBIND and IPV6_FREEBIND (ip(7)); the key tells whether the socket is an IPv6 socket."""

_BUFFER_BYTES: Final = 8 * 1024 * 1024
"""Size of a socket buffer: 0.1 s at 640 Mbit/s, including the kernel's own overhead."""

_CONTROL_BUFFER_BYTES: Final = 512 * 1024
"""Room for about a thousand small datagrams; a longer queue would only add delay in a flood."""

_DATAGRAMS_PER_BATCH: Final = 2048
"""Limits a batch to tens of milliseconds of work."""

_MESSAGES_PER_READ: Final = 32
"""A read returns at most 32 * 64 datagrams, which limits how far a batch exceeds its bound."""

_GSO_REFUSALS: Final = frozenset((errno.EINVAL, errno.EMSGSIZE, errno.EIO, errno.EOPNOTSUPP))
"""Errors if segments exceed the path MTU, checksum offload is missing, or UDP_SEGMENT is."""

_ADDRESS_GONE: Final = frozenset((errno.EINVAL, errno.ENETUNREACH, errno.EADDRNOTAVAIL))
"""Errors of Linux for a datagram from an address that this host has lost."""


class VersionMissing(BackendError):
    """The kernel does not have the IP version of an endpoint."""


class UdpSocket:
    """A UDP socket bound to one endpoint; a context manager, owned by one task group.

    ``counters`` has totals without addresses: ``received``, ``sent``, ``dropped_buffer_full`` and
    one ``dropped_ERRNO`` for each errno of the kernel.
    """

    def __init__(
        self,
        bound: socket.socket,
        *,
        aggregates: bool = True,
        addresses: ReturnAddresses | None = None,
    ) -> None:
        """Take over a socket of :func:`bound_socket`; most callers want :meth:`open`.

        Args:
            bound: the socket.
            aggregates: whether to receive aggregates (UDP_GRO). Without them, each message is one
                datagram, so a read keeps its bound exactly.
            addresses: for a socket that is bound to a wildcard, so that it answers from the
                address to which a peer wrote.
        """
        self._socket = bound
        self._reader = DatagramReader()
        self._addresses = addresses
        self.counters: Counter[str] = Counter()
        self.segments_received = aggregates and _try_option(bound, socket.IPPROTO_UDP, _UDP_GRO, 1)
        self.segments_sent = _try_option(bound, socket.IPPROTO_UDP, _UDP_SEGMENT, 0)

    @classmethod
    def open(cls, endpoint: Endpoint, *, mark: int | None = None) -> Self:
        """Bind to ``endpoint`` (IPv4 or IPv6; port 0 lets the kernel choose).

        Args:
            endpoint: a local address, or the wildcard of its IP version.
            mark: firewall mark of all datagrams, by which the kill switch recognises them as the
                node's own. It is ignored if the process may not set a mark.

        Raises:
            BackendError: the port is in use or privileged, or this host does not have the address.
        """
        return cls(bound_socket(endpoint, mark=mark))

    @property
    def local(self) -> Endpoint:
        """The endpoint that the socket is bound to."""
        host, port = self._socket.getsockname()[:2]
        return Endpoint(host, port)

    @property
    def kernel_drops(self) -> int:
        """Number of datagrams that the kernel dropped, as garbage or because the queue was full."""
        try:
            counts = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
        except OSError:  # closed
            return 0
        return int(_MEMINFO.unpack(counts)[-1]) if len(counts) == _MEMINFO.size else 0

    async def receive_batch(
        self, max_datagrams: int = _DATAGRAMS_PER_BATCH
    ) -> list[tuple[bytes, Endpoint]]:
        """Wait until datagrams arrive, then return them, about ``max_datagrams`` at most.

        The batch is empty if an error of the kernel arrived instead. Cancelling loses no datagram,
        because there is no checkpoint after the wait.

        Raises:
            trio.ClosedResourceError: the socket was closed.
        """
        await self.wait_readable()
        return self.read_batch(max_datagrams)

    async def wait_readable(self) -> None:
        """Wait until a datagram or an error of the kernel arrives.

        Raises:
            trio.ClosedResourceError: the socket was closed.
        """
        if self._socket.fileno() < 0:
            raise trio.ClosedResourceError
        await trio.lowlevel.wait_readable(self._socket)

    def read_batch(self, max_datagrams: int = _DATAGRAMS_PER_BATCH) -> list[tuple[bytes, Endpoint]]:
        """Return the datagrams that have arrived, without waiting.

        Reading stops at ``max_datagrams``. The last message may exceed this number, because the
        kernel aggregates up to 64 datagrams in one message.

        Raises:
            trio.ClosedResourceError: the socket was closed.
        """
        if self._socket.fileno() < 0:
            raise trio.ClosedResourceError
        batch: list[tuple[bytes, Endpoint]] = []
        while (room := max_datagrams - len(batch)) > 0:
            try:
                most = min(room, _MESSAGES_PER_READ)
                if self._reader.read(self._socket, batch, most, self._addresses) < most:
                    break
            except OSError as error:  # a pending ICMP error of the socket
                self._count(error, 1)
                break
        # An answer to a link-local sender would need its zone, which endpoints do not have.
        usable = [item for item in batch if "%" not in item[1].host]
        if len(usable) < len(batch):
            self.counters["dropped_link_local"] += len(batch) - len(usable)
        self.counters["received"] += len(usable)
        return usable

    def send_batch(self, batch: Sequence[tuple[bytes, Endpoint]]) -> None:
        """Send a batch in order, without waiting; errors of a destination are only counted."""
        addresses = self._addresses if self._addresses and self._addresses.in_use else None
        for run in runs_of(batch):
            control = addresses.control(run.endpoint) if addresses is not None else []
            several = len(run.datagrams) > 1 and self.segments_sent
            if not (several and self._sent_at_once(run, control)):
                self._send_singly(run, control)

    def send_whole(self, batch: Sequence[tuple[bytes, Endpoint]]) -> None:
        """Send as :meth:`send_batch` does, with "don't fragment" set.

        Datagrams that are too large for the device are dropped and counted. The kernel's path MTU
        is ignored, because any ICMP error can change it.
        """
        if batch:
            self._discover(_PMTUDISC_PROBE)
            try:
                self.send_batch(batch)
            finally:
                self._discover(_PMTUDISC_DONT)

    def _discover(self, mode: int) -> None:
        if self._socket.family == socket.AF_INET6:
            _try_option(self._socket, socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, mode)
        else:
            _try_option(self._socket, socket.IPPROTO_IP, _IP_MTU_DISCOVER, mode)

    def follow_addresses(self) -> None:
        """Apply a change of the return addresses to the socket."""
        if self._addresses is not None:
            with contextlib.suppress(OSError):  # closed, or the kernel lacks the option
                self._addresses.apply(self._socket)

    def prepare(self, change: Callable[[socket.socket], None]) -> None:
        """Let ``change`` set socket options that end the aggregation of received datagrams.

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

    def _sent_at_once(self, run: Run, control: Control) -> bool:
        """Send a run with one call; return False if the kernel cannot segment it."""
        size = (socket.IPPROTO_UDP, _UDP_SEGMENT, struct.pack("=H", run.segment_bytes))
        try:
            self._socket.sendmsg(run.datagrams, [size, *control], 0, run.endpoint)
        except OSError as error:
            if error.errno in _GSO_REFUSALS:
                return False
            self._count(error, len(run.datagrams))
        else:
            self.counters["sent"] += len(run.datagrams)
        return True

    def _send_singly(self, run: Run, control: Control) -> None:
        for datagram in run.datagrams:
            try:
                if control:
                    self._socket.sendmsg((datagram,), control, 0, run.endpoint)
                else:
                    self._socket.sendto(datagram, run.endpoint)
            except OSError as error:
                if control and error.errno in _ADDRESS_GONE and self._addresses is not None:
                    self._addresses.forget(run.endpoint)
                self._count(error, 1)
            else:
                self.counters["sent"] += 1

    def _count(self, error: OSError, datagrams: int) -> None:
        if error.errno in (errno.EAGAIN, errno.ENOBUFS):
            self.counters["dropped_buffer_full"] += datagrams
        else:
            name = errno.errorcode.get(error.errno or 0, "unknown")
            self.counters[f"dropped_{name}"] += datagrams


class ControlQueues(NamedTuple):
    """Sockets for expected answers, for requests with a cookie and for requests without one."""

    expected: UdpSocket
    returning: UdpSocket
    strangers: UdpSocket


class UdpPort:
    """One UDP port: ``esp`` for ESP of our links, ``split`` for control datagrams.

    ``split`` is None if this kernel cannot split a port; then ``esp`` receives everything. The
    object owns all sockets, and datagrams are sent with ``esp``.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        forms: PortForms,
        *,
        mark: int | None = None,
        addresses: ReturnAddresses | None = None,
    ) -> None:
        """Bind to ``endpoint``; see :meth:`UdpSocket.open`.

        The host may get the address later. ``forms`` describe the datagrams that the port accepts.
        ``addresses`` are for a wildcard.

        Raises:
            BackendError: see :meth:`UdpSocket.open`.
        """
        first = bound_socket(endpoint, mark=mark, in_advance=True)
        bound_to = Endpoint(*first.getsockname()[:2])
        joined = split_port(
            first,
            lambda: bound_socket(
                bound_to,
                mark=mark,
                share_port=True,
                in_advance=True,
                buffer_bytes=_CONTROL_BUFFER_BYTES,
            ),
            forms,
        )
        self._first, self._forms = first, forms
        self.esp = UdpSocket(first, addresses=addresses)
        # Without aggregation, the filters see each datagram, and a read keeps its bound.
        self.split = (
            None
            if joined is None
            else ControlQueues(
                *(UdpSocket(each, aggregates=False, addresses=addresses) for each in joined)
            )
        )

    def steer(self, suspects: Sequence[Suspect]) -> None:
        """Queue doubtful ESP of these links under attack with unauthenticated requests.

        The choice is a hint and replaces the previous one. Links over the other IP version are
        ignored.
        """
        size = len(self.esp.local.packed)
        if self.split is not None:
            with contextlib.suppress(OSError):  # the reader then sorts them, at a higher cost
                steer(self._first, self._forms, [s for s in suspects if len(s.address) == size])

    @property
    def sockets(self) -> tuple[UdpSocket, ...]:
        """All sockets of the port."""
        return (self.esp,) if self.split is None else (self.esp, *self.split)

    def close(self) -> None:
        """Close all sockets; tasks that wait for them are woken."""
        for each in self.sockets:
            each.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def bound_socket(
    endpoint: Endpoint,
    *,
    mark: int | None = None,
    share_port: bool = False,
    in_advance: bool = False,
    buffer_bytes: int = _BUFFER_BYTES,
) -> socket.socket:
    """Return a non-blocking UDP socket, bound and with the options that the overlay needs.

    Outer fragmentation is permitted (no "don't fragment"). Packets of a link SA may exceed the
    path MTU, and ICMP errors from other hosts must not lower our packet size. Over IPv6 the flow
    label is 0, as in the kernel's IPsec, so that it does not disclose the backend.

    Args:
        endpoint: see :meth:`UdpSocket.open`.
        mark: see :meth:`UdpSocket.open`.
        in_advance: whether to permit an address that this host does not have yet.
        share_port: whether other sockets of this user with ``SO_REUSEPORT`` may use the port.
        buffer_bytes: size of each of the two buffers, if the kernel permits it.

    Raises:
        BackendError: see :meth:`UdpSocket.open`.
    """
    ipv6 = ":" in endpoint.host
    try:
        new = socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
    except OSError as error:
        refusal = refused("opening a UDP socket", error)
        if error.errno == errno.EAFNOSUPPORT:
            raise VersionMissing(*refusal.args) from error
        raise refusal from error
    try:
        new.settimeout(0)
        if ipv6:
            new.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            _try_option(new, socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_DONT)
            _try_option(new, socket.IPPROTO_IPV6, _AUTOFLOWLABEL, 0)
        else:
            _try_option(new, socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DONT)
        _enlarge_buffers(new, buffer_bytes)
        if mark is not None:
            _try_option(new, socket.SOL_SOCKET, _SO_MARK, mark)
        if in_advance:
            level, option = _FREEBIND[ipv6]
            _try_option(new, level, option, 1)
        if share_port:
            new.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
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
        with contextlib.suppress(RuntimeError):  # outside trio no task waits
            trio.lowlevel.notify_closing(used)
    used.close()


def _enlarge_buffers(new: socket.socket, buffer_bytes: int) -> None:
    for forced, polite in (
        (_SO_RCVBUFFORCE, socket.SO_RCVBUF),
        (_SO_SNDBUFFORCE, socket.SO_SNDBUF),
    ):
        if not _try_option(new, socket.SOL_SOCKET, forced, buffer_bytes):
            _try_option(new, socket.SOL_SOCKET, polite, buffer_bytes)


def _try_option(target: socket.socket, level: int, option: int, value: int) -> bool:
    """Set an option that the kernel may lack or reserve to root; tell whether it was set."""
    try:
        target.setsockopt(level, option, value)
    except OSError:
        return False
    return True


_BIND_REMEDIES: Final = {
    errno.EADDRINUSE: "another program has this port, so stop it or set another port",
    errno.EADDRNOTAVAIL: "this host has no such address, so set one that `ip address` shows",
    errno.EACCES: "ports below 1024 need root, so set a higher port",
    errno.EPERM: "ports below 1024 need root, so set a higher port",
}


def _bind_error(endpoint: Endpoint, error: OSError) -> BackendError:
    return refused(f"listening on UDP {endpoint}", error, _BIND_REMEDIES.get(error.errno or 0, ""))
