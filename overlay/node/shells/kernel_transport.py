"""Send and receive this node's control packets if the kernel carries the circuits.

All other packets stay in the kernel::

    signalling, circuit control ──> UDP sockets ──> kernel: policies, SAs ──> UDP port
    UDP port ──> kernel: SAs, policies ──> UDP sockets ──> cores, as whole IPv6 packets
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from overlay.addresses import Endpoint
from overlay.apm.carrier import SIGNALLING_PORT
from overlay.apm.control import CONTROL_BYTES, CONTROL_PORT
from overlay.apm.datagram import UdpDatagram, build_datagram, parse_datagram
from overlay.node.shells.packet_transport import Arrived
from overlay.system.control_sockets import ControlDatagram

__all__ = ["CONTROL_PORTS", "ControlSender", "KernelTransport"]

CONTROL_PORTS: Final = (SIGNALLING_PORT, CONTROL_PORT)


class ControlSender(Protocol):
    """A socket on one port of every overlay and circuit address."""

    def send(
        self, source: bytes, destination: bytes, port: int, payload: bytes, *, whole: bool = False
    ) -> None:
        """Send one datagram without waiting; addresses are packed.

        With ``whole`` it is not fragmented before IPsec, as a packet of a program that forbids it.
        """
        ...


class KernelTransport:
    """The ``PacketTransport`` (:mod:`.packet_transport`) of the kernel backend."""

    def __init__(
        self,
        sockets: Mapping[int, ControlSender],
        answered: Callable[[], Mapping[str, int]] = dict[str, int],
    ) -> None:
        """Use these sockets, by port; their owner closes them.

        ``answered`` returns counters of refused packets that got an answer.
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
        """Count and drop datagrams: the kernel has taken ESP already, so these are not ESP."""
        self._counts["stray ESP"] += len(datagrams)
        return Arrived(idle=True)

    def send(self, packets: Sequence[bytes], now: float) -> None:  # noqa: ARG002 - the Protocol's signature
        """Send packets of the cores, which are UDP datagrams on ``CONTROL_PORTS``."""
        for packet in packets:
            datagram = parse_datagram(packet)
            is_probe = (
                datagram.source_port == CONTROL_PORT and len(datagram.payload) > CONTROL_BYTES
            )
            self._sockets[datagram.source_port].send(
                datagram.source,
                datagram.destination,
                datagram.destination_port,
                datagram.payload,
                whole=is_probe,
            )

    def send_dummy(self, reqid: int, now: float) -> None:  # noqa: ARG002 - the Protocol's signature
        """Count the call only: the kernel cannot send dummy packets.

        Strategies that need them exclude this backend (``overlay.node.backend_choice``).
        """
        self._counts["dummies not sent"] += 1

    def received(self, port: int, datagrams: Sequence[ControlDatagram]) -> Arrived:
        """Return datagrams that came to ``port`` as IPv6 packets for the cores."""
        packets = [
            build_datagram(
                UdpDatagram(each.source, each.destination, each.source_port, port, each.payload)
            )
            for each in datagrams
        ]
        return Arrived(packets)

    def counters(self) -> dict[str, int]:
        """Return counters of dropped and refused packets; the kernel counts the others."""
        return {**self._counts, **self._answered()}
