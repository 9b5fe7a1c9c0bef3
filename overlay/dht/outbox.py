"""The datagrams that the parts of the DHT have made and that its owner has not yet sent."""

from __future__ import annotations

from overlay.addresses import Endpoint
from overlay.dht.contacted import Contacted

__all__ = ["DhtOutbox"]


class DhtOutbox:
    """Datagrams in the order in which they must leave.

    ``contacted`` records where they go. The owner empties it after every step.
    """

    def __init__(self, contacted: Contacted) -> None:
        self._contacted = contacted
        self._datagrams: list[tuple[bytes, Endpoint]] = []

    def send(self, datagram: bytes, endpoint: Endpoint, now: float) -> None:
        """Add a datagram."""
        self._datagrams.append((datagram, endpoint))
        self._contacted.note(endpoint, now)

    def take(self) -> list[tuple[bytes, Endpoint]]:
        """Return and remove the datagrams."""
        datagrams, self._datagrams = self._datagrams, []
        return datagrams
