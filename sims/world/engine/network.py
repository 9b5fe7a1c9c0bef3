"""The in-memory network of the simulator, of tests and of benchmarks: latency, loss, conditions.

A datagram may be lost. Otherwise it arrives after the delay of the latency model at the host that
has the destination address at that time. If no host has it, the datagram is dropped silently.
``impose`` and ``lift`` set conditions of lines (``conditions.py``), ``partition`` and ``repair``
are the common case of one, and ``crash`` takes a host off the network. A datagram is any value;
only the verb ``corrupt`` needs bytes.

Reasons: docs/decisions/0065.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import Any, Final, Protocol

from overlay.addresses import Endpoint
from sims.world.engine import conditions
from sims.world.engine.conditions import Condition, Flight
from sims.world.engine.digest import EventDigest
from sims.world.engine.heap import EventHeap

__all__ = [
    "FRAMING_BYTES",
    "NOWHERE",
    "DatagramSource",
    "Imposed",
    "Network",
    "OneWayDelay",
    "SimulatedHost",
]

FRAMING_BYTES: Final = 5
"""The non-ESP marker (RFC 3948) and the channel in front of every control message."""

NOWHERE: Final = 2**32 - 1
"""The index of a sender or receiver whose address no host has."""

Received = tuple[Any, Endpoint]


class DatagramSource(Protocol):
    """A sender of datagrams: the index of a machine, and the source address."""

    @property
    def index(self) -> int:
        """The number of the machine, from 0."""
        ...

    @property
    def endpoint(self) -> Endpoint:
        """The address that receivers see."""
        ...


class SimulatedHost(DatagramSource, Protocol):
    """A machine that can be attached to an address."""

    def arrived(self, item: Received) -> None:
        """Process a datagram and the address of its sender."""
        ...


class OneWayDelay(Protocol):
    """One-way delays of datagrams (``sims.world.latency``)."""

    def delay_s(self, source: int, destination: int, rng: Random) -> float:
        """Return the one-way delay between two hosts in seconds."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Imposed:
    """A condition in force, and the lines that it concerns. None means any sender or receiver."""

    condition: Condition
    sender: int | None
    receiver: int | None
    both_ways: bool

    def concerns(self, flight: Flight) -> bool:
        """Tell whether a datagram is on a line of this condition."""
        return self._matches(flight.sender, flight.receiver) or (
            self.both_ways and self._matches(flight.receiver, flight.sender)
        )

    def _matches(self, one: int, other: int) -> bool:
        return (self.sender is None or self.sender == one) and (
            self.receiver is None or self.receiver == other
        )


@dataclass(frozen=True, slots=True)
class _Elsewhere:
    """The sender of a datagram from an address that no host has."""

    endpoint: Endpoint
    index: int = NOWHERE


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
        self._imposed: tuple[Imposed, ...] = ()
        self._partition: Imposed | None = None

    # Hosts.

    def attach(self, host: SimulatedHost, *endpoints: Endpoint) -> None:
        """Attach a host to its address, or to the given addresses."""
        for endpoint in endpoints or (host.endpoint,):
            self._hosts[endpoint] = host

    def crash(self, host: SimulatedHost, *endpoints: Endpoint) -> None:
        """Detach a host from its address, or from the given addresses.

        Datagrams on their way to it are lost.
        """
        for endpoint in endpoints or (host.endpoint,):
            if self._hosts.get(endpoint) is host:
                del self._hosts[endpoint]

    def host_at(self, endpoint: Endpoint) -> SimulatedHost | None:
        """Return the host that has an address now, or None."""
        return self._hosts.get(endpoint)

    # Conditions.

    def impose(
        self,
        condition: Condition,
        *,
        sender: DatagramSource | None = None,
        receiver: DatagramSource | None = None,
        both_ways: bool = False,
        for_s: float | None = None,
    ) -> Imposed:
        """Apply a condition to what is sent from now on, after those already in force.

        Args:
            condition: a verb of ``sims.world.engine.conditions``, or any such function.
            sender: the host at whose datagrams it acts; None means all senders.
            receiver: the host to which those datagrams go; None means all receivers.
            both_ways: whether it acts in the opposite direction too.
            for_s: seconds until it ends; None means until :meth:`lift`.
        """
        imposed = Imposed(
            condition,
            None if sender is None else sender.index,
            None if receiver is None else receiver.index,
            both_ways,
        )
        self._imposed += (imposed,)
        if for_s is not None:
            self.heap.at(self.heap.now + for_s, lambda each, _: self.lift(each), imposed)
        return imposed

    def lift(self, *imposed: Imposed) -> None:
        """End conditions, or all if none is given; those that have ended are no error."""
        self._imposed = tuple(
            each for each in self._imposed if imposed and not any(each is one for one in imposed)
        )

    def partition(self, sides: Iterable[Iterable[int]]) -> None:
        """Partition the network: hosts on different sides (by index) cannot reach each other.

        Hosts that no side names are on a further side together. It replaces the last partition.
        """
        self.repair()
        self._partition = self.impose(conditions.partition(sides))

    def repair(self) -> None:
        """End a partition."""
        if self._partition is not None:
            self.lift(self._partition)
            self._partition = None

    # Datagrams.

    def carry(self, datagram: Any, source: Endpoint, to: Endpoint) -> None:  # noqa: ANN401 - any value
        """Send a datagram now, under any source address, whether a host has it or not."""
        sender = self._hosts.get(source)
        index = NOWHERE if sender is None else sender.index
        size = len(datagram) if isinstance(datagram, bytes) else 0
        self.send(_Elsewhere(source, index), datagram, to, self.heap.now, size, 0)

    def send(
        self,
        source: DatagramSource,
        datagram: Any,  # noqa: ANN401 - any value
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
        lost = host is not None and self._loss and self._rng.random() < self._loss
        here = source.index
        if self._imposed:
            there = NOWHERE if host is None else host.index
            flights = self._under_conditions(Flight(datagram, source.endpoint, to, here, there))
            if not lost and flights:
                self._launch(flights, when, size, kind)
                return
            lost = True
        if host is None or lost:
            self.lost += 1
            return
        when += self._latency.delay_s(here, host.index, self._rng)
        self.heap.at(when, self._arrive, to, (datagram, source.endpoint, here, kind, size))

    def _under_conditions(self, sent: Flight) -> list[Flight]:
        flights = [sent]
        for imposed in self._imposed:
            flights = [
                after
                for flight in flights
                for after in (imposed.condition(flight) if imposed.concerns(flight) else (flight,))
            ]
        return flights

    def _launch(self, flights: list[Flight], when: float, size: int, kind: int) -> None:
        for flight in flights:
            host = self._hosts.get(flight.to)
            if host is None:
                self.lost += 1
                continue
            delay_s = self._latency.delay_s(flight.sender, host.index, self._rng) + flight.extra_s
            arriving = (flight.datagram, flight.source, flight.sender, kind, size)
            self.heap.at(when + max(0.0, delay_s), self._arrive, flight.to, arriving)

    def _arrive(self, to: Endpoint, arriving: tuple[Any, Endpoint, int, int, int]) -> None:
        datagram, endpoint, source, kind, size = arriving
        host = self._hosts.get(to)
        if host is None:
            self.lost += 1
            return
        self.digest.delivery(self.heap.now, source, host.index, kind, size)
        self.delivered += 1
        host.arrived((datagram, endpoint))
