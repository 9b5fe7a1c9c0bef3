"""Batches between sockets, TUN devices and the userspace engine; no decision, no per-packet await.

::

    UDP ──demultiplex──┬─ ESP ──> engine ──┬─ to_network ──> UDP      (relay)
                       │                   ├─ to_host ──> join ──> asked for? ──> source TUN
                       │                   ├─ to_exit ──> join ──> rules ──> exit TUN
                       │                   └─ to_control ──> signalling
                       └─ control channels ──> DHT, link handshakes

    source TUN ──> too big? ──> rules ──> cut ──> engine ──> UDP
    exit TUN ──> made alike ────────────> cut ──> engine ──> UDP

TUN devices exchange TCP super-packets (:mod:`overlay.offload`). The rules see them whole, and
circuits carry their segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random, SystemRandom
from typing import Protocol

from overlay.addresses import Endpoint
from overlay.forwarding.answers import normalised_answers
from overlay.forwarding.asked import AskedFor
from overlay.forwarding.icmp_errors import prohibited, protocol_unreachable
from overlay.forwarding.rules import ForwardingRules
from overlay.forwarding.too_big import packet_too_big
from overlay.node.shells.packet_transport import Arrived, DatagramSink, PacketEngine
from overlay.offload.identification import KEY_BYTES, Identifications
from overlay.offload.joining import joined
from overlay.offload.super_packets import cut_all, is_super_packet
from overlay.sensitive import SecretBytes

__all__ = ["PacketDevice", "UserspaceTransport"]


class PacketDevice(Protocol):
    """A TUN device."""

    def write_batch(self, packets: Sequence[bytes]) -> None:
        """Hand packets to the kernel without waiting."""
        ...


class UserspaceTransport:
    """Route batches between the engine, the network and this host; it keeps no packet.

    Implements ``overlay.node.shells.packet_transport.PacketTransport`` for the userspace backend.
    """

    def __init__(
        self,
        engine: PacketEngine,
        rules: ForwardingRules,
        network: DatagramSink,
        *,
        inner_mtu: int,
        segment_bytes: int,
        rng: Random | None = None,
    ) -> None:
        """Store the arguments.

        Args:
            engine: seals and opens packets.
            rules: decide what enters a circuit, and what leaves one here.
            network: sends datagrams.
            inner_mtu: size in bytes of the largest packet that a circuit carries.
            segment_bytes: size in bytes of the TCP segments of super-packets, IP header included.
            rng: draws the secret of identifications; the system's randomness if it is None.
        """
        self._engine = engine
        self._rules = rules
        self._network = network
        self._inner_mtu = inner_mtu
        self._segment_bytes = segment_bytes
        key = SecretBytes((rng or SystemRandom()).randbytes(KEY_BYTES))
        self._identifications = Identifications(key, segment_bytes)
        self._asked_for = AskedFor()
        self.source_device: PacketDevice | None = None
        self.exit_device: PacketDevice | None = None
        self.packets_from_host = 0
        self.packets_to_host = 0
        self.unasked_packets = 0
        self.protocols_refused = 0
        self.exit_refusals_told = 0

    def from_network(
        self,
        datagrams: Sequence[tuple[bytes, Endpoint]],
        now: float,
        *,
        defer_doubtful: bool = False,
    ) -> Arrived:
        """Process ESP datagrams; what the cores must know is returned."""
        processed = self._engine.process_inbound(datagrams, now, defer_doubtful=defer_doubtful)
        if processed.to_network:
            self._network.send_batch(processed.to_network)
        if processed.to_host and self.source_device is not None:
            # Beside the packet filter, which another program may flush.
            arrived = joined(processed.to_host, self._segment_bytes)
            answers = self._asked_for.answers(arrived)
            self.packets_to_host += len(answers)
            self.unasked_packets += len(arrived) - len(answers)
            if answers:
                self.source_device.write_batch(answers)
        if processed.to_exit and self.exit_device is not None:
            leaving = joined(processed.to_exit, self._segment_bytes)
            permitted = self._rules.at_exit(leaving)
            if permitted:
                self.exit_device.write_batch(self._identifications.chosen(permitted))
            if len(permitted) < len(leaving):
                self._answer_refused(leaving, permitted, now)
        worn = self._engine.has_soft_expired
        idle = not (
            processed.to_network or processed.to_host or processed.to_exit or processed.to_control
        )
        attacked = self._engine.attacked_links()
        return Arrived(
            processed.to_control, worn, idle, processed.deferred, attacked, processed.moved
        )

    def from_source_device(self, packets: Sequence[bytes], now: float) -> None:
        """Carry what local programs sent to anonymised destinations."""
        self.packets_from_host += len(packets)
        fitting = self._refuse_too_big(packets)
        normalised = self._rules.at_source(fitting)
        if len(normalised) < len(fitting):
            self._answer_uncarried(fitting, normalised)
        if normalised:
            self._asked_for.left(normalised)
            self.send(normalised, now)

    def from_exit_device(self, packets: Sequence[bytes], now: float) -> None:
        """Carry what outside hosts answered to circuits that end here."""
        self.send(normalised_answers(packets), now)

    def send(self, packets: Sequence[bytes], now: float) -> None:
        """Seal packets of this host and send them."""
        processed = self._engine.process_outbound(cut_all(packets, self._segment_bytes), now)
        if processed.to_network:
            self._network.send_batch(processed.to_network)

    def send_dummy(self, reqid: int, now: float) -> None:
        """Send one dummy packet on a link, if it is up."""
        datagram = self._engine.dummy(reqid, now)
        if datagram is not None:
            self._network.send_batch([datagram])

    def counters(self) -> dict[str, int]:
        """Return how many packets this host's programs sent and got."""
        return {
            "packets_from_host": self.packets_from_host,
            "packets_to_host": self.packets_to_host,
            "unasked_packets": self.unasked_packets,
            "protocols_refused": self.protocols_refused,
            "exit_refusals_told": self.exit_refusals_told,
        }

    def _answer_uncarried(self, packets: Sequence[bytes], passed: Sequence[bytes]) -> None:
        """Answer "protocol unreachable" to the local program alone, so that it need not wait."""
        carried = set(map(id, passed))
        answers = [protocol_unreachable(each) for each in packets if id(each) not in carried]
        told = [answer for answer in answers if answer is not None]
        self.protocols_refused += len(told)
        if told and self.source_device is not None:
            self.source_device.write_batch(told)

    def _answer_refused(
        self, packets: Sequence[bytes], passed: Sequence[bytes], now: float
    ) -> None:
        """Answer "prohibited" through the circuit, whichever rule of this exit refused."""
        carried = set(map(id, passed))
        answers = [prohibited(each) for each in packets if id(each) not in carried]
        told = [answer for answer in answers if answer is not None]
        self.exit_refusals_told += len(told)
        if told:
            self.send(told, now)

    def _refuse_too_big(self, packets: Sequence[bytes]) -> Sequence[bytes]:
        """Answer "packet too big" to the local program alone (RFC 1191, RFC 8201).

        What may be fragmented, or must be carried whatever its size (IPv6 up to 1,280 bytes),
        gets no answer and passes.
        """
        limit = self._inner_mtu
        if all(len(packet) <= limit for packet in packets):
            return packets
        passed, answers = [], []
        for packet in packets:
            fits = len(packet) <= limit or is_super_packet(packet, self._segment_bytes)
            answer = None if fits else packet_too_big(packet, limit)
            if answer is None:
                passed.append(packet)
            else:
                answers.append(answer)
        if answers and self.source_device is not None:
            self.source_device.write_batch(answers)
        return passed
