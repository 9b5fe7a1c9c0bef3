"""The Anonymous Paths Signalling Manager: routes between network, source side and relay side.

::

    control packets -> UDP -> signalling port -> Carrier -> onion    -> RelayCircuits
                              control port, to our overlay address   -> RelayCircuits
                              control port, to a circuit address     -> SourceCircuits

Sans-I/O: packets, link events and time in; packets, events and a deadline out. All that
happens to a circuit is decided in ``source.py`` and ``relay.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from overlay.addresses import (
    CircuitAddress,
    IpNetwork,
    OverlayAddress,
    is_circuit_address,
    is_overlay_address,
)
from overlay.apm.carrier import SIGNALLING_PORT, OnionCarrier
from overlay.apm.circuit_table import CircuitTable
from overlay.apm.circuits import LinkSecurity
from overlay.apm.control import CONTROL_PORT, parse_control
from overlay.apm.crypto import X25519_SUITE, OnionPrivateKey
from overlay.apm.datagram import UdpDatagram, build_datagram, parse_datagram
from overlay.apm.events import ApmDrop, ApmEvent, CircuitEnd, CircuitReport, LinkSilent, RelayReport
from overlay.apm.inner_addresses import InnerAddressPool
from overlay.apm.layer import IpVersions
from overlay.apm.relay import RelayCircuits
from overlay.apm.settings import ApmSettings
from overlay.apm.source import SourceCircuits
from overlay.apm.spi import SpiAllocator
from overlay.apm.switchboard import Switchboard
from overlay.errors import LimitReached, Malformed, NotAuthentic, PeerError, Replayed
from overlay.identity import LocalIdentity
from overlay.ipsec.interface import IpsecBackend, SaIdentity
from overlay.selection.selector import MixPath
from overlay.work_budget import WorkBudget

__all__ = ["SignallingManager"]


class SignallingManager:
    """Anonymous Paths Management of one node (paper, sections 2.4 and 3)."""

    def __init__(
        self,
        identity: LocalIdentity,
        backend: IpsecBackend,
        spis: SpiAllocator,
        settings: ApmSettings,
        rng: Random,
        inner_addresses: InnerAddressPool | None,
        relay: bool,
        budget: WorkBudget | None = None,
        inner_in_use: Callable[[bytes], bool] = lambda _: False,
    ) -> None:
        """Build the two sides.

        Args:
            identity: whose onion key opens layers.
            backend: where IPsec configurations are enforced.
            spis: shared with the link block.
            settings: bounds and times.
            rng: of identifiers, addresses and seeds.
            inner_addresses: what the exit role lends; None for no exit role.
            relay: whether to pass circuits on.
            budget: of expensive work for others; one of its own by default.
            inner_in_use: tells whether this host's networks use an address that an exit lent.
        """
        own = identity.overlay_address
        self._board = Switchboard(own, backend, spis, settings, inner_addresses, budget)
        self._connections = CircuitTable()
        self._carrier = OnionCarrier(settings, rng, self._board.groups)
        self._source = SourceCircuits(
            self._board, self._connections, self._carrier, rng, inner_in_use
        )
        self._relay = RelayCircuits(
            self._board,
            self._connections,
            self._carrier,
            OnionPrivateKey(X25519_SUITE, identity.onion_private),
            rng,
            relay=relay,
            inner_taken=self._source.holds_inner,
        )

    # --- circuits of ours ---

    def anonymous_connection(self, path: MixPath, destination: IpNetwork, now: float) -> int:
        """Ask for a circuit (``apasm_anonymous_connection()``, Figure 4).

        Events tell what becomes of it: LinkWanted, then CircuitOpened or CircuitFailed.

        Args:
            path: the hops, first hop first.
            destination: a host or prefix that the circuit's packets are for.
            now: Unix seconds.

        Returns:
            The circuit's number, meaningful in this process alone.

        Raises:
            NoSuitablePath: the path cannot carry a circuit of ours.
            LimitReached: as many circuits as allowed are open.
        """
        return self._source.open(path, destination, now)

    def stand_by(self, circuit: int, path: MixPath, now: float) -> int:
        """Ask for a circuit that takes over the inner addresses of another one if that breaks.

        Events: CircuitStandsBy when it is ready, CircuitMoved when it took over.

        Args:
            circuit: an open circuit of ours without a standby.
            path: hops to the same exit, over other relays.
            now: Unix seconds.

        Returns:
            The number of the standby circuit.

        Raises:
            PathError: the path ends elsewhere, or cannot carry a circuit of ours.
            LimitReached: the circuit is not open or has a standby.
        """
        return self._source.stand_by(circuit, path, now)

    def close(self, circuit: int, now: float) -> None:
        """End a circuit of ours; one that is gone already is no error."""
        self._source.close(circuit, CircuitEnd.CLOSED, now)

    def close_all(self, now: float) -> None:
        """End all circuits, ours and others', because the node stops."""
        self._source.close_all(CircuitEnd.SHUTDOWN, now)
        self._relay.close_all(now)

    # --- circuits that leave here ---

    def offer_exit(self, families: IpVersions, now: float) -> None:
        """Be an exit over these families alone; circuits over others end, with a reason."""
        if self._board.inner_pool is not None:
            self._board.inner_pool.offer(families)
            self._relay.withdraw(~families, now)

    def lend(self, families: IpVersions) -> None:
        """Take new circuits over these families alone; the others that are there stay."""
        if self._board.inner_pool is not None:
            self._board.inner_pool.offer(families)

    # --- links ---

    def link_established(
        self, overlay_address: OverlayAddress, security: LinkSecurity, now: float
    ) -> None:
        """A link is up and usable; again with other addresses if it moved.

        A link whose addresses or reqid changed is a new one: policies name them, so the
        circuits over the old one end.
        """
        known = self._board.link(overlay_address)
        if known == security:
            return
        if known is not None:
            self.link_lost(overlay_address, now)
        self._board.link_is_up(overlay_address, security)
        self._source.link_established(overlay_address, security, now)
        self._relay.link_established(overlay_address, security, now)

    def link_lost(self, overlay_address: OverlayAddress, now: float) -> None:
        """A link is gone, or one that was wanted cannot be had."""
        self._source.link_lost(overlay_address, now)
        self._relay.link_lost(overlay_address, now)
        self._carrier.link_lost(overlay_address)
        self._board.link_is_down(overlay_address)
        self._onions_failed(now)

    def uses_link(self, overlay_address: OverlayAddress) -> bool:
        """Tell whether a circuit, ours or another's, needs the link to this neighbour."""
        return self._board.uses_link(overlay_address)

    # --- packets ---

    def receive(self, packets: Sequence[bytes], now: float) -> None:
        """Take plain IPv6 packets that passed this host's in-policies; never raises."""
        for packet in packets:
            try:
                self._route(parse_datagram(packet), now)
            except Malformed:
                self._board.count(ApmDrop.MALFORMED)
            except NotAuthentic:
                self._board.count(ApmDrop.NOT_AUTHENTIC)
            except Replayed:
                self._board.count(ApmDrop.REPLAYED)
            except PeerError:
                self._board.count(ApmDrop.UNEXPECTED)
            except LimitReached:
                self._board.count(ApmDrop.LIMIT)

    def _route(self, datagram: UdpDatagram, now: float) -> None:
        ports = (datagram.source_port, datagram.destination_port)
        to_us = datagram.destination == self._board.own
        if ports == (SIGNALLING_PORT, SIGNALLING_PORT) and to_us:
            self._receive_signalling(OverlayAddress(datagram.source), datagram.payload, now)
        elif ports == (CONTROL_PORT, CONTROL_PORT) and to_us:
            if not is_circuit_address(datagram.source):
                raise Malformed("circuit control comes from a circuit address")
            near = CircuitAddress(datagram.source)
            self._relay.receive(near, parse_control(datagram.payload), now)
        elif ports == (CONTROL_PORT, CONTROL_PORT):
            self._receive_at_source(datagram, now)
        else:
            self._board.count(ApmDrop.UNEXPECTED)

    def _receive_signalling(self, peer: OverlayAddress, payload: bytes, now: float) -> None:
        if not is_overlay_address(peer) or self._board.link(peer) is None:
            # Unacknowledged, so it comes again when the link is usable for us as well.
            self._board.count(ApmDrop.UNEXPECTED)
            return
        message = self._carrier.receive(peer, payload, now)
        if message is not None:
            self._receive_onion_message(peer, message, now)

    def _receive_onion_message(self, peer: OverlayAddress, message: bytes, now: float) -> None:
        """Hand an onion to the relay side (``apasm_receive_onion_msg()``, Figure 5)."""
        self._relay.receive_onion_message(peer, message, now)

    def _receive_at_source(self, datagram: UdpDatagram, now: float) -> None:
        near, hop = CircuitAddress(datagram.destination), OverlayAddress(datagram.source)
        found = self._connections.source_by_near(near, hop)
        if found is None:
            self._board.count(ApmDrop.UNKNOWN_CIRCUIT)
            return
        circuit, position = found
        self._source.receive(circuit, position, parse_control(datagram.payload), now)

    def packets_to_send(self, now: float) -> list[bytes]:  # noqa: ARG002 - one of the five verbs
        """Drain the plain IPv6 packets that the engine must seal (``apasm_send_onion_msg()``)."""
        signalling = [
            build_datagram(
                UdpDatagram(self._board.own, peer, SIGNALLING_PORT, SIGNALLING_PORT, payload)
            )
            for peer, payload in self._carrier.payloads_to_send()
        ]
        return signalling + self._board.packets()

    def soft_expired(self, identity: SaIdentity, now: float) -> bool:
        """Take an SA that reached a soft limit: the source replaces its keys.

        Returns:
            Whether it is in use by a circuit of ours. That of a circuit of others waits for
            its source, whose limits are lower; one that was replaced already needs nothing.
        """
        return self._source.soft_expired(identity, now)

    # --- time and reports ---

    def next_deadline(self) -> float:
        """Return when to call :meth:`handle_deadline`, ``math.inf`` for never."""
        return min(
            self._source.next_deadline(),
            self._relay.next_deadline(),
            self._carrier.next_deadline(),
            self._board.next_deadline(),
        )

    def handle_deadline(self, now: float) -> None:
        """Run the timers; harmless if early, afterwards the next deadline lies after ``now``."""
        self._carrier.handle_deadline(now)
        for neighbour in self._carrier.silent_neighbours():
            self._board.emit(LinkSilent(neighbour))
        self._onions_failed(now)
        self._source.handle_deadline(now)
        self._relay.handle_deadline(now)
        self._board.handle_deadline(now)

    def _onions_failed(self, now: float) -> None:
        for circuit in self._carrier.failures():
            self._source.onion_failed(circuit, now)
            self._relay.onion_failed(circuit, now)

    def events(self) -> list[ApmEvent]:
        """Drain what happened."""
        return self._board.events()

    def circuits(self) -> list[CircuitReport]:
        """Return this node's own circuits, for the user who asked for them."""
        return self._source.reports()

    def relay_report(self) -> RelayReport:
        """Return what this node does for others: counts alone."""
        return self._relay.report()
