"""The Anonymous Paths Signalling Manager: it passes packets to the source side or the relay side.

::

    control packets -> UDP -> signalling port -> Carrier -> onion    -> RelayCircuits
                              control port, to our overlay address   -> RelayCircuits
                              control port, to a circuit address     -> SourceCircuits

It does no I/O: it takes packets, link events and time, and returns packets, events and a deadline.
``source.py`` and ``relay.py`` decide what happens to a circuit.
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
from overlay.apm.control import CONTROL_PORT, parse_control
from overlay.apm.crypto import X25519_SUITE, OnionPrivateKey
from overlay.apm.datagram import UdpDatagram, build_datagram, parse_datagram
from overlay.apm.events import ApmDrop, ApmEvent, CircuitEnd, CircuitReport, LinkSilent, RelayReport
from overlay.apm.inner_addresses import InnerAddressPool
from overlay.apm.inspection import CircuitInspection
from overlay.apm.layer import IpVersions
from overlay.apm.relay import RelayCircuits
from overlay.apm.settings import ApmSettings
from overlay.apm.source import SourceCircuits
from overlay.apm.spi import SpiAllocator
from overlay.apm.switchboard import Switchboard
from overlay.errors import LimitReached, Malformed, NotAuthentic, PeerError, Replayed
from overlay.identity import LocalIdentity
from overlay.ipsec.interface import IpsecBackend, SaIdentity
from overlay.link.security import LinkSecurity
from overlay.selection.selector import MixPath
from overlay.work_budget import WorkBudget

__all__ = ["SignallingManager"]


# Large: the facade of circuits; each method calls one part.
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
        probed_packet_bytes: int | None = None,
    ) -> None:
        """Build the two sides.

        Args:
            identity: its onion key opens layers.
            backend: where IPsec configurations are enforced.
            spis: shared with the link block.
            settings: bounds and times.
            rng: of identifiers, addresses and seeds.
            inner_addresses: the addresses that an exit lends; None if this node is no exit.
            relay: whether this node relays circuits.
            budget: CPU time for expensive work for other nodes; a new one by default.
            inner_in_use: tells whether this host's networks use an address that an exit lent.
            probed_packet_bytes: size in bytes of inner packets for which own circuits are probed;
                None if they are not probed.
        """
        own = identity.overlay_address
        self._board = Switchboard(own, backend, spis, settings, inner_addresses, budget)
        self._connections = CircuitTable()
        self._carrier = OnionCarrier(settings, rng, self._board.groups)
        self._source = SourceCircuits(
            self._board, self._connections, self._carrier, rng, inner_in_use, probed_packet_bytes
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

    # --- circuits of this node ---

    def anonymous_connection(self, path: MixPath, destination: IpNetwork, now: float) -> int:
        """Ask for a circuit (``apasm_anonymous_connection()``, Figure 4).

        LinkWanted may follow as an event, then CircuitOpened or CircuitFailed.

        Args:
            path: the hops, first hop first.
            destination: a host or prefix that the circuit's packets are for.
            now: Unix seconds.

        Returns:
            The circuit's number, which is valid in this process only.

        Raises:
            NoSuitablePath: the path cannot carry a circuit of this node.
            LimitReached: the node has ``max_source_circuits`` circuits already.
        """
        return self._source.open(path, destination, now)

    def stand_by(self, circuit: int, path: MixPath, now: float) -> int:
        """Ask for a circuit that takes over the inner addresses of another one if that breaks.

        Events: CircuitStandsBy when it is ready, CircuitMoved when it took over.

        Args:
            circuit: an open circuit of this node without a standby.
            path: hops to the same exit, over other relays.
            now: Unix seconds.

        Returns:
            The number of the standby circuit.

        Raises:
            PathError: the path has another exit, or cannot carry a circuit of this node.
            LimitReached: the circuit is not open or has a standby.
        """
        return self._source.stand_by(circuit, path, now)

    def close(self, circuit: int, now: float) -> None:
        """End a circuit of this node. Nothing happens if it does not exist any more."""
        self._source.close(circuit, CircuitEnd.CLOSED, now)

    def close_all(self, now: float) -> None:
        """End all circuits, because the node stops."""
        self._source.close_all(CircuitEnd.SHUTDOWN, now)
        self._relay.close_all(now)

    # --- the exit role ---

    def offer_exit(self, families: IpVersions, now: float) -> None:
        """Offer the exit role for these IP versions only.

        Circuits that use another version end with the reason WITHDRAWN.
        """
        if self._board.inner_pool is not None:
            self._board.inner_pool.offer(families)
            self._relay.withdraw(~families, now)

    def lend(self, families: IpVersions) -> None:
        """Accept new circuits for these IP versions only; existing circuits stay."""
        if self._board.inner_pool is not None:
            self._board.inner_pool.offer(families)

    # --- links ---

    def link_established(
        self, overlay_address: OverlayAddress, security: LinkSecurity, now: float
    ) -> None:
        """Process a link that is up, or that has changed its addresses or reqid.

        Policies name addresses and reqid. So after a change the circuits over the former link end.
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
        """Process the loss of a link, or the failure to open one."""
        self._source.link_lost(overlay_address, now)
        self._relay.link_lost(overlay_address, now)
        self._carrier.link_lost(overlay_address)
        self._board.link_is_down(overlay_address)
        self._onions_failed(now)

    def uses_link(self, overlay_address: OverlayAddress) -> bool:
        """Tell whether any circuit needs the link to this neighbour."""
        return self._board.uses_link(overlay_address)

    # --- packets ---

    def receive(self, packets: Sequence[bytes], now: float) -> None:
        """Process decrypted IPv6 packets that passed the inbound policies; never raises."""
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
            # Without an acknowledgement the peer repeats it, and the link may be usable by then.
            self._board.count(ApmDrop.UNEXPECTED)
            return
        message = self._carrier.receive(peer, payload, now)
        if message is not None:
            self._receive_onion_message(peer, message, now)

    def _receive_onion_message(self, peer: OverlayAddress, message: bytes, now: float) -> None:
        """Pass an onion to the relay side (``apasm_receive_onion_msg()``, Figure 5)."""
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
        """Replace the keys of an SA that has reached a soft limit, if this node is the source.

        Returns:
            Whether a circuit of this node uses the SA. For other circuits nothing is done, because
            their source has lower limits. A retired SA needs nothing.
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
        """Do everything that is due. Afterwards the next deadline is later than ``now``."""
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
        """Return the circuits of which this node is the source."""
        return self._source.reports()

    def relay_report(self) -> RelayReport:
        """Return counts of the circuits of other nodes."""
        return self._relay.report()

    def inspection(self) -> CircuitInspection:
        """Return a view of all circuits with their keys, which a node must not report."""
        return CircuitInspection(self._connections, self._relay.exchanges())
