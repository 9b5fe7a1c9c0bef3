"""The objects that all links of a node share, such as numbers, outbox, clock and endpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from overlay.addresses import Endpoint, OverlayAddress
from overlay.errors import Refused
from overlay.ipsec.interface import Spi
from overlay.link.endpoint_proof import EndpointProof
from overlay.link.events import LinkEvent
from overlay.link.exchange import Credentials
from overlay.link.peer_endpoints import PeerEndpoints
from overlay.link.replay import InitiationClock
from overlay.link.settings import LinkSettings

__all__ = ["LinkNumbers", "LinkServices", "Outbox"]


class LinkNumbers:
    """The indexes and inbound SPIs in use, and the peer to which each belongs.

    The number of links bounds this table, because each has a bounded number of indexes and SPIs.
    The table also has the outbound SPIs per destination host. An SPI that a peer chose must not
    equal another one to the same host, because the SAD distinguishes SAs by both.
    """

    def __init__(
        self,
        draw_index: Callable[[], int],
        allocate: Callable[[], Spi],
        release: Callable[[Spi], None],
    ) -> None:
        self._draw_index = draw_index
        self._allocate = allocate
        self._release = release
        self._by_index: dict[int, OverlayAddress] = {}
        self._by_spi: dict[Spi, OverlayAddress] = {}
        self._outbound: set[tuple[str, Spi]] = set()

    def new_index(self, owner: OverlayAddress) -> int:
        """Return 32 random bits that no other handshake of this node uses."""
        index = self._draw_index()
        while index in self._by_index:
            index = self._draw_index()
        self._by_index[index] = owner
        return index

    def release_index(self, index: int) -> None:
        """Forget an index."""
        del self._by_index[index]

    def owner_of_index(self, index: int) -> OverlayAddress | None:
        """Return the peer of the handshake with this index."""
        return self._by_index.get(index)

    def has_index(self, number: int) -> bool:
        """Tell whether a handshake of this node has this index."""
        return number in self._by_index

    def has_spi(self, number: int) -> bool:
        """Tell whether a pair of this node has this inbound SPI."""
        return number in self._by_spi

    def new_spi(self, owner: OverlayAddress) -> Spi:
        """Return a fresh inbound SPI.

        Raises:
            LimitReached: the allocator has none left.
        """
        spi = self._allocate()
        self._by_spi[spi] = owner
        return spi

    def release_spi(self, spi: Spi) -> None:
        """Give an inbound SPI back."""
        del self._by_spi[spi]
        self._release(spi)

    def owner_of_spi(self, spi: Spi) -> OverlayAddress | None:
        """Return the peer of the existing or future pair that receives on this SPI."""
        return self._by_spi.get(spi)

    def claim_outbound(self, endpoint: Endpoint, spi: Spi) -> None:
        """Reserve an SPI that a peer chose.

        Raises:
            Refused: another pair to the same host has it.
        """
        if (endpoint.host, spi) in self._outbound:
            raise Refused("another SA to this host has the same SPI")
        self._outbound.add((endpoint.host, spi))

    def release_outbound(self, endpoint: Endpoint, spi: Spi) -> None:
        """Release an SPI that a peer chose."""
        self._outbound.discard((endpoint.host, spi))


class Outbox:
    """The events and datagrams of the core. The shell drains both after every call."""

    def __init__(self) -> None:
        self._events: list[LinkEvent] = []
        self._datagrams: list[tuple[bytes, Endpoint]] = []
        self._whole: list[tuple[bytes, Endpoint]] = []

    def announce(self, event: LinkEvent) -> None:
        """Queue an event."""
        self._events.append(event)

    def send(self, payload: bytes, endpoint: Endpoint) -> None:
        """Queue a payload of the link channel."""
        self._datagrams.append((payload, endpoint))

    def send_whole(self, payload: bytes, endpoint: Endpoint) -> None:
        """Queue a payload of the link channel that must not be fragmented."""
        self._whole.append((payload, endpoint))

    def take_whole(self) -> list[tuple[bytes, Endpoint]]:
        """Drain the datagrams that must not be fragmented."""
        taken, self._whole = self._whole, []
        return taken

    def take_events(self) -> list[LinkEvent]:
        """Drain the events."""
        taken, self._events = self._events, []
        return taken

    def take_datagrams(self) -> list[tuple[bytes, Endpoint]]:
        """Drain the datagrams."""
        taken, self._datagrams = self._datagrams, []
        return taken


@dataclass(frozen=True, slots=True)
class LinkServices:
    """The shared objects, which each link gets when it is created."""

    credentials: Credentials
    settings: LinkSettings
    rng: Random
    numbers: LinkNumbers
    outbox: Outbox
    clock: InitiationClock
    local_endpoint: Callable[[Endpoint], Endpoint | None]
    endpoints: PeerEndpoints

    def new_proof(self, in_use: Endpoint | None, source: Endpoint) -> EndpointProof:
        """Return the state machine that finds out where the peer of a new pair is."""
        return EndpointProof(self.settings, self.rng, in_use, source)
