"""CPU time of cryptography, which is added to simulated time instead of computing it.

A node has one processor, so signing and verifying delay the next datagram. The figures are those
of Ed25519 of OpenSSL through ``cryptography`` on one core of a server of 2023. They were measured
as in ``benchmarks/circuit_setup.py``, and a scenario may set others.
"""

from __future__ import annotations

from dataclasses import dataclass

from overlay.dht.messages import MessageKind

__all__ = ["CryptoCosts"]


@dataclass(frozen=True, slots=True)
class CryptoCosts:
    """CPU time of each operation in seconds."""

    sign_s: float = 40e-6
    verify_s: float = 110e-6

    def of_sending(self) -> tuple[float, ...]:
        """Return, by the number of a kind, the CPU time before a datagram of that kind is sent.

        The time for a reply includes the verification of its request. A request is verified
        only if its cookie is valid, and then it is also answered.
        """
        costs = [0.0] * 256
        for kind in MessageKind:
            if kind.is_request:
                costs[kind] = self.sign_s
            elif kind is not MessageKind.CHALLENGE:
                costs[kind] = self.verify_s + self.sign_s
        return tuple(costs)
