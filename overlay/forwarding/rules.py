"""The interface of anonymous forwarding rules, which plug-ins implement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

__all__ = ["ForwardingRules"]


class ForwardingRules(Protocol):
    """Rules that take a batch of IP packets and return those that may pass, in their order.

    The rules drop a packet that they cannot parse. No input raises an exception.

    A TCP packet may be a super-packet of up to 65,535 bytes, which stands for many segments
    (:mod:`overlay.offload`). Its TCP checksum has no meaning. Rules may change its headers.
    """

    def at_source(self, packets: Sequence[bytes]) -> list[bytes]:
        """Return packets for a circuit with headers that do not identify the source."""
        ...

    def at_exit(self, packets: Sequence[bytes]) -> list[bytes]:
        """Return the packets that the exit policy permits."""
        ...

    def counters(self) -> dict[str, int]:
        """Return the number of packets that each rule changed or dropped, by name of the rule."""
        ...
