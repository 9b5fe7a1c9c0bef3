"""Packets of this node's own where the kernel carries the circuits; it keeps no other packet.

::

    signalling, circuit control ──> UDP sockets ──> kernel: policies, SAs ──> UDP port
    UDP port ──> kernel: SAs, policies ──> UDP sockets ──> cores, as whole IPv6 packets
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from overlay.addresses import Endpoint
from overlay.apm.carrier import SIGNALLING_PORT
from overlay.apm.control import CONTROL_PORT
from overlay.apm.datagram import UdpDatagram, build_datagram, parse_datagram
from overlay.node.packet_transport import Arrived
from overlay.system.control_sockets import ControlDatagram

__all__ = ["CONTROL_PORTS", "ControlSender", "KernelTransport"]

CONTROL_PORTS: Final = (SIGNALLING_PORT, CONTROL_PORT)


class ControlSender(Protocol):
    """A socket on one port of every overlay and circuit address."""

    def send(self, source: bytes, destination: bytes, port: int, payload: bytes) -> None:
        """Send without waiting."""
        ...


class KernelTransport:
    """Implements ``overlay.node.packet_transport.PacketTransport`` for the kernel backend."""

    def __init__(
        self,
        sockets: Mapping[int, ControlSender],
        answered: Callable[[], Mapping[str, int]] = dict[str, int],
    ) -> None:
        """Take the sockets, by port; their owner closes them.

        ``answered`` returns how many refused packets got an answer, by counter.
        """
        self._sockets = sockets
        self._answered = answered
        self._counts: Counter[str] = Counter()

    def from_network(
        self,
        datagrams: Sequence[tuple[bytes, Endpoint]],
        now: float,  # noqa: ARG002 - the Protocol's signature
        *,
        defer_doubtful: bool = False,  # noqa: ARG002 - the kernel opens what is ESP
    ) -> Arrived:
        """Count what is no ESP packet for the kernel either; whole ones never come here."""
        self._counts["stray ESP"] += len(datagrams)
        return Arrived(idle=True)

    def send(self, packets: Sequence[bytes], now: float) -> None:  # noqa: ARG002 - the Protocol's signature
        """Send packets of our own cores, which are UDP datagrams on our ports."""
        for packet in packets:
            datagram = parse_datagram(packet)
            self._sockets[datagram.source_port].send(
                datagram.source, datagram.destination, datagram.destination_port, datagram.payload
            )

    def send_dummy(self, reqid: int, now: float) -> None:  # noqa: ARG002 - the Protocol's signature
        """Count: the kernel sends no dummies, so a strategy that wants some excludes it."""
        self._counts["dummies not sent"] += 1

    def received(self, port: int, datagrams: Sequence[ControlDatagram]) -> Arrived:
        """Return what the cores are told of datagrams that came to a port."""
        packets = [
            build_datagram(
                UdpDatagram(each.source, each.destination, each.source_port, port, each.payload)
            )
            for each in datagrams
        ]
        return Arrived(packets)

    def counters(self) -> dict[str, int]:
        """Return what did not go its way; packets that do are the kernel's to count."""
        return {**self._counts, **self._answered()}
