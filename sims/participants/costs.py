"""What cryptography costs a node, added to simulated time in the place of doing it.

A node is one processor: what it signs and verifies keeps what it sends next from leaving.
Figures: Ed25519 of OpenSSL through ``cryptography`` on one core of a server of 2023, as
``benchmarks/circuit_setup.py`` measures such things; a scenario may set its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from overlay.dht.messages import Kind

__all__ = ["CryptoCosts"]


@dataclass(frozen=True, slots=True)
class CryptoCosts:
    """Seconds of processor time."""

    sign_s: float = 40e-6
    verify_s: float = 110e-6

    def of_sending(self) -> tuple[float, ...]:
        """Return, by the number of a kind, what must be done before such a datagram leaves.

        A reply follows the check of its request, so both are on its account; whether a request
        is verified at all depends on its cookie, and then it is answered.
        """
        costs = [0.0] * 256
        for kind in Kind:
            if kind.is_request:
                costs[kind] = self.sign_s
            elif kind is not Kind.CHALLENGE:
                costs[kind] = self.verify_s + self.sign_s
        return tuple(costs)
