"""UDP sockets for control traffic inside IPsec that the kernel encrypts and decrypts.

There is one socket per port, for all overlay and circuit addresses of this host. Each datagram has
its addresses as ancillary data (RFC 3542, IPV6_PKTINFO). The kernel's policies decide which tunnels
a datagram takes or must have come through. This module only knows addresses and ports.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

import trio

from overlay.addresses import is_circuit_address, is_overlay_address
from overlay.system.failures import refused
from overlay.system.marks import LARGE_MARK
from overlay.system.udp import close_waking

__all__ = ["ControlDatagram", "ControlSocket"]

# From in6.h of Linux.
_DONTFRAG: Final = 62
_AUTOFLOWLABEL: Final = 70
_PKTINFO: Final = struct.Struct("=16sI")
_RECEIVE_BYTES: Final = 65_536
_ANCILLARY_BYTES: Final = socket.CMSG_SPACE(_PKTINFO.size)
_READS_PER_BATCH: Final = 64


@dataclass(frozen=True, slots=True)
class ControlDatagram:
    """A payload and its packed addresses; its ports are the socket's and the sender's."""

    source: bytes
    destination: bytes
    source_port: int
    payload: bytes


class ControlSocket:
    """One port on all overlay and circuit addresses; a context manager.

    ``counters``: ``received``, ``sent``, ``dropped_send`` and ``dropped_address`` (datagrams to
    another address of this host).
    """

    def __init__(self, port: int) -> None:
        """Bind.

        Raises:
            BackendError: another program uses the port, or this host has no IPv6.
        """
        self.port = port
        self.counters: Counter[str] = Counter()
        try:
            self._socket = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        except OSError as error:
            raise refused("opening an IPv6 socket", error) from error
        try:
            self._socket.settimeout(0)
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            self._socket.setsockopt(socket.IPPROTO_IPV6, _AUTOFLOWLABEL, 0)
            self._socket.bind(("::", port))
        except OSError as error:
            self._socket.close()
            remedy = "another program has this port, so stop it"
            raise refused(f"listening on UDP port {port} over IPv6", error, remedy) from error

    def fileno(self) -> int:
        """Return the descriptor, which is readable if datagrams have arrived; -1 if closed."""
        return self._socket.fileno()

    async def receive_batch(self) -> list[ControlDatagram]:
        """Wait until datagrams arrive, then return up to 64 of them.

        Raises:
            trio.ClosedResourceError: the socket was closed.
        """
        if self._socket.fileno() < 0:
            raise trio.ClosedResourceError
        await trio.lowlevel.wait_readable(self._socket)
        return self.read_batch()

    def read_batch(self) -> list[ControlDatagram]:
        """Return up to 64 datagrams that have arrived, without waiting."""
        batch: list[ControlDatagram] = []
        for _ in range(_READS_PER_BATCH):
            try:
                payload, ancillary, _, sender = self._socket.recvmsg(
                    _RECEIVE_BYTES, _ANCILLARY_BYTES
                )
            except OSError:  # no more datagrams, or a pending ICMP error
                break
            self._take(payload, ancillary, sender, batch)
        self.counters["received"] += len(batch)
        return batch

    def send(
        self, source: bytes, destination: bytes, port: int, payload: bytes, *, whole: bool = False
    ) -> None:
        """Send one datagram without waiting; an error is only counted.

        With ``whole`` it takes the way of large packets that must not be fragmented inside the
        circuit. To a hop, that is the detour of ``overlay.system.link_detour``. From an exit there
        is none, because answers are forwarded over IPv6 without it.
        """
        if not whole:
            self._send(source, destination, port, payload)
            return
        mark = LARGE_MARK if is_overlay_address(destination) else 0
        try:
            self._prepare(mark, whole=True)
            self._send(source, destination, port, payload)
        except OSError:  # without CAP_NET_ADMIN there is no mark, and no kernel backend either
            self.counters["dropped_send"] += 1
        finally:
            with contextlib.suppress(OSError):
                self._prepare(0, whole=False)

    def _prepare(self, mark: int, *, whole: bool) -> None:
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        self._socket.setsockopt(socket.IPPROTO_IPV6, _DONTFRAG, int(whole))

    def _send(self, source: bytes, destination: bytes, port: int, payload: bytes) -> None:
        information = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _PKTINFO.pack(source, 0))
        host = socket.inet_ntop(socket.AF_INET6, destination)
        try:
            self._socket.sendmsg([payload], [information], 0, (host, port))
        except OSError:  # its circuit has ended, or the buffer is full; treat it as packet loss
            self.counters["dropped_send"] += 1
        else:
            self.counters["sent"] += 1

    def close(self) -> None:
        """Close the socket; a task that waits in :meth:`receive_batch` is woken."""
        close_waking(self._socket)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take(
        self,
        payload: bytes,
        ancillary: Iterable[tuple[int, int, bytes]],
        sender: tuple[str, int, int, int],
        batch: list[ControlDatagram],
    ) -> None:
        destination = _destination(ancillary)
        if not (is_overlay_address(destination) or is_circuit_address(destination)):
            self.counters["dropped_address"] += 1
            return
        source = socket.inet_pton(socket.AF_INET6, sender[0].partition("%")[0])
        batch.append(ControlDatagram(source, destination, sender[1], payload))


def _destination(ancillary: Iterable[tuple[int, int, bytes]]) -> bytes:
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
            return bytes(_PKTINFO.unpack_from(data)[0])
    return b""
