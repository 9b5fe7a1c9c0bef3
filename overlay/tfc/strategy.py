"""What a traffic flow confidentiality strategy decides: sizes and dummies, link by link."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NewType, Protocol

__all__ = ["LinkHandle", "TfcStrategy"]

LinkHandle = NewType("LinkHandle", int)
"""A process-local number of a link; it means nothing elsewhere."""


class TfcStrategy(Protocol):
    """Decide what an observer of a link sees, without touching packets.

    The node pads each link packet to :meth:`pad_to` (RFC 4303, section 2.7) and sends as
    many dummy packets (next header 59, RFC 4303, section 2.6) as :meth:`due` asks for.
    """

    def pad_to(self, link_mtu: int) -> int:
        """Return the ESP payload size to pad link packets to, 0 for no padding.

        ``link_mtu`` is the largest ESP payload in bytes that fits the link unfragmented.
        """
        ...

    def link_opened(self, link: LinkHandle, now: float) -> None:
        """Start to shape a link."""
        ...

    def link_closed(self, link: LinkHandle) -> None:
        """Forget a link."""
        ...

    def next_deadline(self) -> float:
        """Return when :meth:`due` wants to be called, ``math.inf`` for never."""
        ...

    def due(self, now: float) -> Sequence[LinkHandle]:
        """Return a link for every dummy packet to send now; afterwards the deadline lies ahead."""
        ...
