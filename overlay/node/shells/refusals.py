"""Answer packets that the kernel's packet filter refused, as the userspace backend does.

An exit answers packets that it does not forward. A source answers packets that no circuit carries.
The sender of each answer is the packet's destination, so the answer tells no address of a host
(:mod:`overlay.forwarding.icmp_errors`). At an exit the kernel's policies put it into the circuit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from overlay.forwarding.icmp_errors import prohibited, protocol_unreachable
from overlay.system.refused_packets import RefusedPacket

__all__ = ["Refusals"]


class Sender(Protocol):
    """Sends answers."""

    def send(self, packets: Iterable[bytes]) -> int:
        """Send without waiting; return the number of sent packets."""
        ...


class Refusals:
    """Answers refused packets and counts the answers."""

    def __init__(self, sender: Sender) -> None:
        """Count from 0."""
        self._sender = sender
        self.protocols_refused = 0
        self.exit_refusals_told = 0

    def answer(self, refused: Iterable[RefusedPacket]) -> None:
        """Answer refused packets of this host's programs, and of circuits that end here.

        Some packets get no answer, for example ICMP errors.
        """
        for each in refused:
            if each.own:
                self.protocols_refused += self._send(protocol_unreachable(each.packet))
            else:
                self.exit_refusals_told += self._send(prohibited(each.packet))

    def counters(self) -> dict[str, int]:
        """Return how many packets were answered, with the names of the userspace backend."""
        return {
            "protocols_refused": self.protocols_refused,
            "exit_refusals_told": self.exit_refusals_told,
        }

    def _send(self, answer: bytes | None) -> int:
        return self._sender.send([answer]) if answer is not None else 0
