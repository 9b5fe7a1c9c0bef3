"""What anonymous forwarding rules do to packets at the two ends of a circuit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

__all__ = ["ForwardingRules"]


class ForwardingRules(Protocol):
    """Batches of IPv4 or IPv6 packets in, the packets that may pass out, in order.

    Whatever the bytes: a packet that cannot be parsed is left out, nothing is raised.
    """

    def at_source(self, packets: Sequence[bytes]) -> list[bytes]:
        """Normalise what leaves the source for a circuit, so that headers tell nothing of it."""
        ...

    def at_exit(self, packets: Sequence[bytes]) -> list[bytes]:
        """Let through what the exit's policy permits."""
        ...

    def counters(self) -> dict[str, int]:
        """Return how many packets each rule changed or dropped, by name."""
        ...
