"""The interface of traffic flow confidentiality strategies: sizes and dummies of each link."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NewType, Protocol

__all__ = ["LinkHandle", "TfcStrategy"]

LinkHandle = NewType("LinkHandle", int)
"""Number of a link within this process."""


class TfcStrategy(Protocol):
    """Decide the sizes and times that an observer of a link sees, without access to packets.

    The node pads each link packet to :meth:`pad_to` (RFC 4303, section 2.7) and sends as
    many dummy packets (next header 59, RFC 4303, section 2.6) as :meth:`due` asks for.
    """

    @classmethod
    def sends_dummies(cls, settings: Any) -> bool:  # noqa: ANN401 - each has its own
        """Tell whether a strategy with these settings ever sends dummy packets.

        Not every IPsec backend can send them. If a strategy does not say, the node assumes that it
        does.
        """
        ...

    def pad_to(self, link_mtu: int) -> int:
        """Return the ESP payload size to pad link packets to, 0 for no padding.

        ``link_mtu`` is the largest ESP payload in bytes that fits the link unfragmented.
        """
        ...

    def link_opened(self, link: LinkHandle, now: float) -> None:
        """Start shaping a link."""
        ...

    def link_closed(self, link: LinkHandle) -> None:
        """Stop shaping a link."""
        ...

    def next_deadline(self) -> float:
        """Return the time of the next call of :meth:`due`, or ``math.inf``."""
        ...

    def due(self, now: float) -> Sequence[LinkHandle]:
        """Return one link per dummy packet to send now. The next deadline is after ``now``."""
        ...
