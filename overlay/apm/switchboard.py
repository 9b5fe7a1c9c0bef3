"""State that source side and relay side share: links, packets, events, closing circuits.

A *closing* circuit has ended, but its SAs are still installed. Its REFUSE or TEARDOWN is sent
``closing_copies`` times, and packets that other hops still send through it pass. Then everything
is removed.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from overlay.addresses import CircuitAddress, OverlayAddress
from overlay.apm.control import CONTROL_PORT, ControlMessage, encode_control
from overlay.apm.datagram import UdpDatagram, build_datagram
from overlay.apm.events import ApmDrop, ApmEvent, ExitCircuitClosed, LinkWanted
from overlay.apm.inner_addresses import InnerAddresses, InnerAddressPool
from overlay.apm.layer import IpVersions
from overlay.apm.neighbour_shares import NeighbourShares
from overlay.apm.retired_sas import RetiredSa
from overlay.apm.settings import ApmSettings
from overlay.apm.spi import SpiAllocator
from overlay.apm.timers import Timers
from overlay.errors import BackendError, LimitReached
from overlay.ipsec.interface import (
    IpsecBackend,
    IpsecConfiguration,
    SecurityAssociation,
    Spi,
)
from overlay.link.events import LinkPeer
from overlay.link.security import LinkSecurity
from overlay.shares import Groups, groups_of
from overlay.work_budget import Work, WorkBudget

__all__ = ["Holdings", "Switchboard", "control_packet"]


@dataclass(frozen=True, slots=True)
class Holdings:
    """Everything that a circuit uses on this host; it is released together."""

    configuration: IpsecConfiguration | None = None
    spis: tuple[Spi, ...] = ()
    links: tuple[OverlayAddress, ...] = ()
    inner_addresses: InnerAddresses | None = None

    def with_retired(self, retired: RetiredSa) -> Holdings:
        """Return these holdings with SAs that rekeying has replaced or has not used yet."""
        if self.configuration is None:
            return self
        associations = self.configuration.associations + retired.associations
        return dataclasses.replace(
            self,
            configuration=dataclasses.replace(self.configuration, associations=associations),
            spis=self.spis + retired.spis,
        )


@dataclass(slots=True)
class _Closing:
    holdings: Holdings
    packets: Sequence[bytes]
    copies_left: int
    said_until: float


def control_packet(
    source: CircuitAddress | OverlayAddress,
    destination: CircuitAddress | OverlayAddress,
    message: ControlMessage,
) -> bytes:
    """Return the IPv6 packet of a circuit control message."""
    payload = encode_control(message)
    return build_datagram(UdpDatagram(source, destination, CONTROL_PORT, CONTROL_PORT, payload))


# Large: source, relay and rekeying share table, backend and outbox.
class Switchboard:
    """Owner of the links in use, of closing circuits, and of queued packets and events.

    At most ``max_closing_circuits`` circuits of other nodes are closing at once, and neighbours
    have shares of these places. Without a place a circuit ends without a message. Inner addresses
    are shared in the same way.
    """

    def __init__(
        self,
        own: OverlayAddress,
        backend: IpsecBackend,
        spis: SpiAllocator,
        settings: ApmSettings,
        inner_pool: InnerAddressPool | None,
        budget: WorkBudget | None = None,
    ) -> None:
        self.own = own
        self.backend = backend
        self.spis = spis
        self.settings = settings
        self.inner_pool = inner_pool
        self._links: dict[OverlayAddress, LinkSecurity] = {}
        self._uses: Counter[OverlayAddress] = Counter()
        self._budget = budget or WorkBudget()
        most = settings.max_closing_circuits
        self._closing_shares: NeighbourShares[int] = NeighbourShares(most, most, self.groups)
        self._refusals: NeighbourShares[int] = NeighbourShares((most + 1) // 2, most, self.groups)
        # A lent address is released only after its circuit has closed, so both count as places.
        places = 0 if inner_pool is None else min(settings.max_circuits + most, inner_pool.places)
        self._lent: NeighbourShares[InnerAddresses] = NeighbourShares(
            places, places, self._groups_of_lent
        )
        self._closing: dict[int, _Closing] = {}
        self._closing_numbers = itertools.count()
        self._timers: Timers[int] = Timers()
        self._packets: list[bytes] = []
        self._events: list[ApmEvent] = []
        self._drops: Counter[ApmDrop] = Counter()

    # --- IPsec ---

    def install(self, configuration: IpsecConfiguration) -> bool:
        """Install SAs and policies of a circuit; return False if the backend refuses them."""
        try:
            self.backend.install(configuration)
        except (BackendError, ValueError):
            return False
        return True

    def install_association(self, association: SecurityAssociation) -> bool:
        """Install one more SA for existing policies; the result is that of :meth:`install`."""
        return self.install(IpsecConfiguration((association,), ()))

    # --- links ---

    def link(self, neighbour: OverlayAddress) -> LinkSecurity | None:
        """Return the link to a neighbour, None if it is not up."""
        return self._links.get(neighbour)

    def link_is_up(self, neighbour: OverlayAddress, security: LinkSecurity) -> None:
        """Record a link that is up."""
        self._links[neighbour] = security

    def link_is_down(self, neighbour: OverlayAddress) -> None:
        """Forget a link."""
        self._links.pop(neighbour, None)

    def use_link(self, neighbour: OverlayAddress) -> None:
        """Count one more circuit on a link (up or wanted)."""
        self._uses[neighbour] += 1

    def uses_link(self, neighbour: OverlayAddress) -> bool:
        """Tell whether an open or closing circuit uses this link."""
        return neighbour in self._uses

    def want_link(self, peer: LinkPeer) -> None:
        """Emit the request for a link."""
        self.emit(LinkWanted(peer))

    def _release_link(self, neighbour: OverlayAddress) -> None:
        self._uses[neighbour] -= 1
        if not self._uses[neighbour]:
            del self._uses[neighbour]

    # --- shares of neighbours ---

    def groups(self, neighbour: OverlayAddress) -> Groups:
        """Return the groups of the address of a neighbour's link; none if the link is down."""
        link = self._links.get(neighbour)
        return groups_of(link.remote) if link is not None else ()

    def _groups_of_lent(self, neighbour: OverlayAddress) -> Groups:
        """Return larger shares for inner addresses, because a pool may have only six.

        A group may hold as many addresses as it leaves free. Large pools are never used up,
        because the shares of circuits are smaller.
        """
        return tuple(group._replace(fraction=1.0) for group in self.groups(neighbour))

    def afford(self, work: Work, neighbour: OverlayAddress, now: float) -> bool:
        """Take the cost of work for a neighbour from the budget; False if too little is left."""
        return self._budget.spend(work, self.groups(neighbour), now)

    def lend(
        self, families: IpVersions, neighbour: OverlayAddress, taken: Callable[[bytes], bool]
    ) -> InnerAddresses | None:
        """Lend inner addresses to a circuit that came over this neighbour's link.

        Returns:
            None if this is no exit, no address is free, or the share of the neighbour is used up.
        """
        if self.inner_pool is None or not self._lent.admits(neighbour):
            return None
        try:
            addresses = self.inner_pool.assign(families, taken)
        except LimitReached:
            return None
        self._lent.add(addresses, neighbour)
        return addresses

    def lent_swapped(
        self,
        one: tuple[InnerAddresses, OverlayAddress],
        other: tuple[InnerAddresses, OverlayAddress],
    ) -> None:
        """Exchange the neighbours to whose shares two lent pairs of addresses count."""
        for addresses, _ in (one, other):
            self._lent.discard(addresses)
        self._lent.add(one[0], other[1])
        self._lent.add(other[0], one[1])

    # --- packets and events ---

    def send(self, packets: Iterable[bytes]) -> None:
        """Queue IPv6 packets."""
        self._packets.extend(packets)

    def packets(self) -> list[bytes]:
        """Drain the queued packets."""
        packets, self._packets = self._packets, []
        return packets

    def emit(self, event: ApmEvent) -> None:
        """Queue an event."""
        self._events.append(event)

    def events(self) -> list[ApmEvent]:
        """Drain the queued events."""
        events, self._events = self._events, []
        return events

    def count(self, drop: ApmDrop) -> None:
        """Count a control packet that was dropped."""
        self._drops[drop] += 1

    def drops(self) -> dict[ApmDrop, int]:
        """Return how many control packets were dropped, by reason."""
        return dict(self._drops)

    # --- the end of circuits ---

    def begin_closing(
        self,
        holdings: Holdings,
        packets: Sequence[bytes],
        now: float,
        previous: OverlayAddress | None = None,
        *,
        refusal: bool = False,
    ) -> None:
        """Send closing messages of a circuit, keep its SAs for a while, then release everything.

        The messages are sent during the first half of that time, and the SAs receive during all of
        it. So a copy arrives in time unless the network delays it by the other half.

        Args:
            holdings: what to release.
            packets: the closing messages, repeated ``closing_copies`` times.
            now: Unix seconds.
            previous: neighbour to whose share the place counts. None for a circuit of this node:
                these have places of their own, which other nodes cannot use up.
            refusal: whether the circuit was refused; :meth:`can_refuse` must have allowed it.
        """
        if previous is None:
            admitted = (
                len(self._closing) - len(self._closing_shares) < self.settings.max_closing_circuits
            )
        else:
            admitted = self._closing_shares.admits(previous)
        if not admitted:
            self.release(holdings)
            return
        self.send(packets)
        number = next(self._closing_numbers)
        if previous is not None:
            self._closing_shares.add(number, previous)
        if previous is not None and refusal:
            self._refusals.add(number, previous)
        half_s = self.settings.closing_copies * self.settings.closing_interval_s
        copies = self.settings.closing_copies - 1 if packets else 0
        self._closing[number] = _Closing(holdings, packets, copies, now + half_s)
        pause_s = self.settings.closing_interval_s if copies else 2 * half_s
        self._timers.set(number, now + pause_s)

    def can_refuse(self, previous: OverlayAddress) -> bool:
        """Tell whether there is a place for one more refused circuit.

        A refusal costs an attacker little, so half of the places are reserved for circuits that
        were open.
        """
        return self._refusals.admits(previous) and self._closing_shares.admits(previous)

    def closing_circuits(self) -> int:
        """Return the number of closing circuits."""
        return len(self._closing)

    def release(self, holdings: Holdings) -> None:
        """Release at once everything that a circuit uses."""
        if holdings.configuration is not None:
            self.backend.remove(holdings.configuration)
        for spi in holdings.spis:
            self.spis.release(spi)
        if holdings.inner_addresses is not None and self.inner_pool is not None:
            self.inner_pool.release(holdings.inner_addresses)
            self._lent.discard(holdings.inner_addresses)
            self.emit(ExitCircuitClosed(holdings.inner_addresses))
        for neighbour in holdings.links:
            self._release_link(neighbour)

    def next_deadline(self) -> float:
        """Return when :meth:`handle_deadline` has something to do."""
        return self._timers.next_deadline()

    def handle_deadline(self, now: float) -> None:
        """Repeat closing messages, and release circuits whose time is over."""
        while (number := self._timers.pop_due(now)) is not None:
            closing = self._closing[number]
            if closing.copies_left:
                self._repeat(number, closing, now)
            else:
                del self._closing[number]
                self._closing_shares.discard(number)
                self._refusals.discard(number)
                self.release(closing.holdings)

    def _repeat(self, number: int, closing: _Closing, now: float) -> None:
        """Repeat the closing messages, unless it is so late that the other side has no SAs."""
        closing.copies_left -= 1
        if now < closing.said_until:
            self.send(closing.packets)
        else:
            closing.copies_left = 0
        half_s = self.settings.closing_copies * self.settings.closing_interval_s
        soon = now + self.settings.closing_interval_s
        self._timers.set(number, soon if closing.copies_left else closing.said_until + half_s)
