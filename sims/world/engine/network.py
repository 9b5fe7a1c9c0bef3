"""The simulated network: latency, loss and faults.

A datagram may be lost. Otherwise it arrives after the delay of the latency model at the host that
has the destination address at that time. If no host has it, the datagram is dropped silently. The
methods ``partition``, ``repair``, ``hold``, ``release``, ``crash`` and ``delay`` inject faults.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import Final, Protocol

from overlay.addresses import Endpoint
from sims.world.engine.digest import EventDigest
from sims.world.engine.heap import EventHeap

__all__ = ["FRAMING_BYTES", "Network", "OneWayDelay", "SimulatedHost"]

FRAMING_BYTES: Final = 5
"""The non-ESP marker (RFC 3948) and the channel in front of every control message."""

Received = tuple[bytes, Endpoint]


class SimulatedHost(Protocol):
    """A machine that can be attached to an address."""

    index: int
    endpoint: Endpoint

    def arrived(self, item: Received) -> None:
        """Process a datagram and the address of its sender."""
        ...


class OneWayDelay(Protocol):
    """One-way delays of datagrams (``sims.world.latency``)."""

    def delay_s(self, source: int, destination: int, rng: Random) -> float:
        """Return the one-way delay between two hosts in seconds."""
        ...


class Network:
    """Carries datagrams between hosts, and owns the assignment of addresses to hosts.

    ``sent``, ``bytes_sent``, ``delivered`` and ``lost`` count control datagrams and their UDP
    payload. ``sent_by`` counts datagrams by the number of the message kind.
    """

    def __init__(
        self,
        heap: EventHeap,
        latency: OneWayDelay,
        rng: Random,
        *,
        loss: float = 0.0,
    ) -> None:
        self.heap = heap
        self.digest = EventDigest()
        self.sent = self.bytes_sent = self.delivered = self.lost = 0
        self.sent_by = [0] * 256
        self._latency = latency
        self._rng = rng
        self._loss = loss
        self._hosts: dict[Endpoint, SimulatedHost] = {}
        self._sides: dict[int, int] = {}
        self._held: dict[int, list[Received]] = {}
        self._extra_s: dict[int, float] = {}

    # Hosts.

    def attach(self, host: SimulatedHost) -> None:
        """Attach a host to its address."""
        self._hosts[host.endpoint] = host

    def crash(self, host: SimulatedHost) -> None:
        """Detach a host. Datagrams on their way to it are lost."""
        if self._hosts.get(host.endpoint) is host:
            del self._hosts[host.endpoint]

    # Faults.

    def partition(self, sides: Iterable[Iterable[int]]) -> None:
        """Partition the network: hosts on different sides (by index) cannot reach each other.

        Hosts that no side names are on a further side together.
        """
        self._sides = {index: number for number, side in enumerate(sides, 1) for index in side}

    def repair(self) -> None:
        """End a partition."""
        self._sides = {}

    def hold(self, index: int) -> None:
        """Hold all datagrams for a host until :meth:`release`."""
        self._held.setdefault(index, [])

    def release(self, index: int) -> None:
        """Deliver all held datagrams of a host at once, in order."""
        for item in self._held.pop(index, ()):
            host = self._host(index)
            if host is not None:
                self.delivered += 1
                host.arrived(item)

    def delay(self, index: int, extra_s: float) -> None:
        """Add a delay in seconds to all datagrams to and from a host; 0 removes it."""
        if extra_s > 0:
            self._extra_s[index] = extra_s
        else:
            self._extra_s.pop(index, None)

    # Datagrams.

    def send(
        self,
        source: SimulatedHost,
        datagram: bytes,
        to: Endpoint,
        when: float,
        size: int,
        kind: int,
    ) -> None:
        """Send a datagram of ``size`` bytes from ``source`` at ``when``, which is now or later."""
        self.sent += 1
        self.bytes_sent += size + FRAMING_BYTES
        self.sent_by[kind] += 1
        host = self._hosts.get(to)
        if host is None or (self._loss and self._rng.random() < self._loss):
            self.lost += 1
            return
        here, there = source.index, host.index
        if self._sides and self._sides.get(here, 0) != self._sides.get(there, 0):
            self.lost += 1
            return
        when += self._latency.delay_s(here, there, self._rng)
        if self._extra_s:
            when += self._extra_s.get(here, 0.0) + self._extra_s.get(there, 0.0)
        self.heap.at(when, self._arrive, host, (datagram, source.endpoint, here, kind, size))

    def _arrive(self, host: SimulatedHost, flight: tuple[bytes, Endpoint, int, int, int]) -> None:
        datagram, endpoint, source, kind, size = flight
        if self._hosts.get(host.endpoint) is not host:
            self.lost += 1
            return
        self.digest.delivery(self.heap.now, source, host.index, kind, size)
        if self._held and host.index in self._held:
            self._held[host.index].append((datagram, endpoint))
            return
        self.delivered += 1
        host.arrived((datagram, endpoint))

    def _host(self, index: int) -> SimulatedHost | None:
        return next((host for host in self._hosts.values() if host.index == index), None)
