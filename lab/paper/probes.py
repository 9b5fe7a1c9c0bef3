"""Measure round trips and packet trains between the two ends of a route.

Both ends are sockets of this process, made in the namespaces of source and destination. So one
clock measures all times, and no second program competes for the processor.

*Round trip*: an ICMP echo request, which the destination's kernel answers. The clock is read before
``sendto`` and after ``recv``. A kernel timestamp would be no better. For a packet from a tunnel it
is the arrival time of the outermost packet, before decryption.

*Train*: UDP datagrams at a constant pace, each with its time of departure. The destination's kernel
records when each arrives on the last cable (SO_TIMESTAMPNS), which is after all cryptography. They
are read after the end of the train, so that reading does not disturb it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from random import Random
from typing import Final, Self

from lab.namespaces import LabError, Namespace
from lab.paper.circuits import MeasuredCircuit

__all__ = ["Probes"]

_ECHO_REQUEST: Final = 8
_ECHO_REPLY: Final = 0
_IP_AND_ICMP: Final = 28
_IP_AND_UDP: Final = 28
_SO_TIMESTAMPNS: Final = 35
_TIMEOUT_S: Final = 2.0
_WARM_UP: Final = 3
"""Packets at the start of a visit, which do not count because they fill caches and ARP entries."""

_PAUSE_S: Final = (0.0005, 0.0035)
"""Bounds of random pauses, so that round trips are not synchronous with the kernel's ticks."""

_TRAIN_PORT: Final = 5001
_STAMP = struct.Struct("!Iq")
_SO_RCVBUFFORCE: Final = 33
_RECEIVE_BUFFER: Final = 4 * 1024 * 1024


class Probes:
    """Sockets of one source and one destination; a context manager."""

    def __init__(self, source: Namespace, destination: Namespace, rng: Random) -> None:
        self._source_namespace = source
        self._rng = rng
        self._identifier = os.getpid() & 0xFFFF
        self._sequence = 0
        self._stack = contextlib.ExitStack()
        self._echo = self._stack.enter_context(source.call(_echo_socket))
        self._receiver = self._stack.enter_context(destination.call(_receiver))
        self._senders: dict[IPv4Address, socket.socket] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for sender in self._senders.values():
            sender.close()
        self._stack.close()

    def round_trips(self, route: MeasuredCircuit, size: int, count: int) -> list[float]:
        """Return the times of ``count`` round trips in ms, without lost ones."""
        found = [self._round_trip(route, size) for _ in range(_WARM_UP + count)]
        return [rtt for rtt in found[_WARM_UP:] if rtt is not None]

    def _round_trip(self, route: MeasuredCircuit, size: int) -> float | None:
        time.sleep(self._rng.uniform(*_PAUSE_S))
        self._sequence = (self._sequence + 1) & 0xFFFF
        packet = _echo_request(self._identifier, self._sequence, size - _IP_AND_ICMP)
        source = (socket.IPPROTO_IP, _IP_PKTINFO, _pktinfo(route.source))
        begun = time.perf_counter()
        self._echo.sendmsg([packet], [source], 0, (str(route.destination), 0))
        while time.perf_counter() < begun + _TIMEOUT_S:
            try:
                answer = self._echo.recv(_IP_AND_ICMP + 12)
            except TimeoutError:
                return None
            ended = time.perf_counter()
            kind, _, _, identifier, sequence = struct.unpack_from("!BBHHH", answer, 20)
            if (kind, identifier, sequence) == (_ECHO_REPLY, self._identifier, self._sequence):
                return (ended - begun) * 1000
        return None

    def train(
        self, route: MeasuredCircuit, size: int, count: int, interval_s: float
    ) -> list[float]:
        """Send ``count`` datagrams; return their transit times in ms, without lost ones.

        Transit times are in the order of departure.
        """
        sender = self._sender(route.source)
        to = (str(route.destination), _TRAIN_PORT)
        padding = bytes(size - _IP_AND_UDP - _STAMP.size)
        self._drain()
        start = time.perf_counter()
        for number in range(_WARM_UP + count):
            time.sleep(max(0.0, start + number * interval_s - time.perf_counter()))
            sender.sendto(_STAMP.pack(number, time.time_ns()) + padding, to)
        arrived = dict(self._arrivals(_WARM_UP + count))
        return [arrived[number] for number in sorted(arrived) if number >= _WARM_UP]

    def _sender(self, source: IPv4Address) -> socket.socket:
        if source not in self._senders:
            made = self._source_namespace.call(_udp_socket)
            made.bind((str(source), 0))
            self._senders[source] = made
        return self._senders[source]

    def _drain(self) -> None:
        self._receiver.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                self._receiver.recv(1)

    def _arrivals(self, count: int) -> Iterator[tuple[int, float]]:
        self._receiver.settimeout(_TIMEOUT_S / 4)
        with contextlib.suppress(TimeoutError):
            for _ in range(count):
                data, ancillary, _, _ = self._receiver.recvmsg(_STAMP.size, 64)
                number, departed_ns = _STAMP.unpack(data)
                yield number, (_arrival_ns(ancillary) - departed_ns) / 1e6


_IP_PKTINFO: Final = 8


def _pktinfo(source: IPv4Address) -> bytes:
    """Return an in_pktinfo that chooses the source address: device, source, unused."""
    return struct.pack("=i4s4x", 0, source.packed)


def _echo_socket() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_ICMP)
    made.settimeout(_TIMEOUT_S)
    _may_fragment(made)
    return made


def _udp_socket() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    _may_fragment(made)
    return made


def _may_fragment(made: socket.socket) -> None:
    """Clear DF, so that packets above the MTU are fragmented (IP_MTU_DISCOVER, DONT)."""
    made.setsockopt(socket.IPPROTO_IP, 10, 0)


def _receiver() -> socket.socket:
    made = _udp_socket()
    made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
    made.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    made.bind(("0.0.0.0", _TRAIN_PORT))
    return made


def _echo_request(identifier: int, sequence: int, size: int) -> bytes:
    """Return an ICMP echo request of ``size`` bytes of data (RFC 792)."""
    body = struct.pack("!HH", identifier, sequence) + bytes(size)
    # The data are zeros, so the three words of the header make up the whole sum (RFC 1071).
    total = (_ECHO_REQUEST << 8) + identifier + sequence
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return struct.pack("!BBH", _ECHO_REQUEST, 0, checksum) + body


def _arrival_ns(ancillary: list[tuple[int, int, bytes]]) -> int:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS):
            seconds, nanoseconds = struct.unpack("=qq", data[:16])
            return int(seconds) * 1_000_000_000 + int(nanoseconds)
    raise LabError("the kernel did not say when a packet arrived.")
