"""The source's side of signalling: open, confirm, keep alive, close (paper, Figure 4).

::

    anonymous_connection -> [LinkWanted .. link up] -> SPIs -> onion -> soft state -> IPsec
        -> onion sent ... CONFIRM -> inner policies, CircuitOpened, PING .. PONG ..
                      ... REFUSE, silence -> CircuitFailed

:mod:`overlay.apm.rekey_source` replaces the keys of open circuits.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from random import Random
from typing import Final

from overlay.addresses import IpNetwork, OverlayAddress
from overlay.apm.carrier import OnionCarrier
from overlay.apm.circuit_holdings import holdings_of_source
from overlay.apm.circuit_reports import circuit_report
from overlay.apm.circuit_table import (
    CircuitTable,
    OpenCircuit,
    PendingCircuit,
    RequestedCircuit,
    SourceCircuit,
)
from overlay.apm.circuits import SourceIpsecInfo
from overlay.apm.control import (
    CircuitPong,
    Confirm,
    ControlMessage,
    Refuse,
    RefuseReason,
    RekeyAnswer,
    RekeySwitched,
    SizeProbed,
    Teardown,
    TeardownReason,
)
from overlay.apm.events import (
    ApmDrop,
    ApmEvent,
    CircuitClosed,
    CircuitEnd,
    CircuitFailed,
    CircuitLost,
    CircuitOpened,
    CircuitReport,
    CircuitStandsBy,
)
from overlay.apm.failures import (
    acknowledgement_missing,
    confirmation_missing,
    link_missing,
    not_set_up,
    refusal,
)
from overlay.apm.inner_addresses import why_unusable
from overlay.apm.keepalive import CircuitWatch, TrafficMarks, WatchTimes
from overlay.apm.layer import IpVersions
from overlay.apm.onion import construct_onion
from overlay.apm.plan import CircuitPlan, allocate_spis, check_path, link_peer_of, plan_circuit
from overlay.apm.rekey_source import SourceRekeying
from overlay.apm.source_sizes import SourceSizes
from overlay.apm.standby import Standbys
from overlay.apm.switchboard import Switchboard
from overlay.apm.takeover import Takeover, hops_to_tell, to_hop
from overlay.apm.timers import Timers
from overlay.apm.translator import ipsec_translator, translate_inner
from overlay.errors import (
    AddressInUse,
    BackendError,
    LimitReached,
    NotAuthentic,
    PathError,
)
from overlay.ipsec.interface import IpsecConfiguration, SaIdentity
from overlay.link.security import LinkSecurity
from overlay.selection.selector import MixPath

__all__ = ["SourceCircuits"]

_UNUSED_CIRCUIT_S: Final = (60.0, 600.0)
"""Lifetime in seconds of a circuit whose inner address cannot be used: the least and the most. The
exit must not be able to distinguish it from a circuit without traffic."""

_MOST_UNUSED: Final = 4
"""Most such circuits at a time, because a source has few circuits in all."""

_NOTHING: Final = IpsecConfiguration((), ())
"""Inner configuration of a circuit that carries no data."""


# Large: each event in the life of an own circuit is a method.
class SourceCircuits:
    """All circuits of which this node is the source. Only this class changes their phase."""

    def __init__(
        self,
        switchboard: Switchboard,
        connections: CircuitTable,
        carrier: OnionCarrier,
        rng: Random,
        inner_in_use: Callable[[bytes], bool],
        probed_packet_bytes: int | None = None,
    ) -> None:
        self._inner_in_use = inner_in_use
        self._sizes = SourceSizes(switchboard, rng, probed_packet_bytes)
        self._board = switchboard
        self._connections = connections
        self._carrier = carrier
        self._rng = rng
        self._settings = switchboard.settings
        self._timers: Timers[int] = Timers()
        self._unused: list[int] = []
        self._standbys = Standbys()
        self._takeover = Takeover(switchboard, connections, self._standbys, self._end)
        self._watch_times = WatchTimes(
            interval_s=self._settings.keepalive_interval_s,
            losses=self._settings.keepalive_losses,
            patience_s=self._settings.answer_patience_s,
            look_s=self._settings.watch_interval_s,
        )
        self._rekeying = SourceRekeying(switchboard, connections, rng, self._not_rekeyed)

    # --- opening ---

    def open(self, path: MixPath, destination: IpNetwork, now: float) -> int:
        """Request a circuit and return its number; see :class:`SignallingManager` for arguments."""
        check_path(path, self._board.own, self._board.backend.capabilities(), self._settings)
        held = len(self._connections.sources()) - len(self._standbys)
        if held >= self._settings.max_source_circuits:
            raise LimitReached(
                f"this node has {self._settings.max_source_circuits} circuits of its own, the most "
                "that [apm] max_source_circuits allows: close a path, or raise that setting."
            )
        return self._request(self._connections.new_number(), path, destination, now)

    def stand_by(self, primary: int, path: MixPath, now: float) -> int:
        """Request a circuit to the same exit that takes over if ``primary`` fails."""
        circuit = self._takeover.may_have_standby(primary, path)
        check_path(path, self._board.own, self._board.backend.capabilities(), self._settings)
        number = self._connections.new_number()
        self._standbys.add(primary, number)
        return self._request(number, path, circuit.destination, now)

    def _request(self, number: int, path: MixPath, destination: IpNetwork, now: float) -> int:
        first = path.hops[0]
        request = RequestedCircuit(number, path, destination)
        self._connections.put_source(request)
        self._board.use_link(first.overlay_address)
        self._timers.set(request.number, now + self._settings.setup_timeout_s)
        link = self._board.link(first.overlay_address)
        if link is None:
            self._board.want_link(link_peer_of(first))
        else:
            self._establish(request, link, now)
        return request.number

    def _establish(self, request: RequestedCircuit, link: LinkSecurity, now: float) -> None:
        """Set the circuit up: the steps of Figure 4 from the choice of SPIs on."""
        try:
            spis = allocate_spis(len(request.path), self._board.spis)
        except LimitReached as error:
            self._fail(request, not_set_up("too many SPIs are in use", error), now)
            return
        plan = plan_circuit(
            request.path,
            IpVersions.IPV4 if request.destination.version == 4 else IpVersions.IPV6,
            spis,
            own=self._board.own,
            settings=self._settings,
            rng=self._rng,
            new_reqid=self._connections.new_reqid,
            now=now,
        )
        pending = PendingCircuit(
            request.number, request.path, request.destination, SourceIpsecInfo(plan.sas, link)
        )
        self._launch(pending, plan, now)

    def _launch(self, pending: PendingCircuit, plan: CircuitPlan, now: float) -> None:
        """Construct the onion, record the circuit, install its SAs and policies, send the onion."""
        try:
            onion = construct_onion(self._settings.onion_suite, plan.onion_hops, self._rng)
            self._connections.put_source(pending)
            info = self._connections.request_ipsec_info(pending.number)
            self._board.backend.install(ipsec_translator(info))
            first = pending.path.hops[0].overlay_address
            self._carrier.send(first, onion, pending.number, now)
        except (NotAuthentic, BackendError, LimitReached, ValueError) as error:
            self._connections.put_source(pending)
            self._fail(pending, not_set_up("it could not be set up here", error), now, hops=0)

    def link_established(self, neighbour: OverlayAddress, link: LinkSecurity, now: float) -> None:
        """Continue with the circuits that wait for this link."""
        for circuit in self._connections.sources():
            if isinstance(circuit, RequestedCircuit) and _first_hop(circuit) == neighbour:
                self._establish(circuit, link, now)

    # --- messages of hops ---

    def receive(
        self,
        circuit: PendingCircuit | OpenCircuit,
        position: int,
        message: ControlMessage,
        now: float,
    ) -> None:
        """Process a control message of the hop at ``position`` (1 is the first)."""
        match message, circuit:
            case Confirm(), PendingCircuit() if position == len(circuit.path):
                self._confirmed(circuit, message, now)
            case Confirm(), OpenCircuit() if position == len(circuit.path):
                self._confirmed_again(circuit, message, now)
            case Refuse(reason), PendingCircuit():
                self._refused(circuit, position, reason, now)
            case Teardown(reason), PendingCircuit():
                self._refused(circuit, position, reason, now)
            case Teardown(TeardownReason.WITHDRAWN), OpenCircuit() if position == len(circuit.path):
                self._end(circuit, CircuitLost(circuit.number, CircuitEnd.WITHDRAWN), now)
            case Teardown(reason), OpenCircuit():
                self._torn_down(circuit, position, reason, now)
            case RekeyAnswer() | RekeySwitched(), OpenCircuit():
                self._rekeying.receive((circuit.number, position), message, now)
            case CircuitPong(), OpenCircuit() if circuit.watch.answered(position, message, now):
                pass
            case SizeProbed(), OpenCircuit() if position == len(circuit.path):
                if self._sizes.answered(circuit, message, now):
                    self._keep_alive(circuit, now)
            case _:
                self._board.count(ApmDrop.UNEXPECTED)

    def _confirmed(self, pending: PendingCircuit, confirm: Confirm, now: float) -> None:
        inner = confirm.inner_addresses
        objection = why_unusable(inner, pending.destination.version)
        if objection is not None:
            self._fail(pending, PathError(objection), now)
            return
        if self._standbys.primary_of(pending.number) is not None:
            self._keep(pending, confirm, _NOTHING, now, now + self._settings.lifetime_s)
            self._board.emit(CircuitStandsBy(pending.number))
            return
        if any(self._is_taken(address) or self._clashes(address) for address in inner):
            self._decline(pending, confirm, now)
            return
        configuration = translate_inner(pending.ipsec, inner, pending.destination)
        try:
            self._board.backend.install(configuration)
        except (BackendError, ValueError) as error:
            self._fail(pending, not_set_up("the inner address could not be set up", error), now)
            return
        self._board.emit(CircuitOpened(pending.number, inner, pending.destination))
        expires_at = now + self._settings.lifetime_s
        self._keep(pending, confirm, configuration, now, expires_at)

    def _decline(self, pending: PendingCircuit, confirm: Confirm, now: float) -> None:
        """Report a failure, so that the path gets another circuit, and keep this one for a while.

        If the circuit ended at once, the exit would learn that the lent address is in use here. It
        could test the networks of this host, one for each circuit. So the circuit is kept alive
        without the address, and ends after a random time.
        """
        error = AddressInUse(
            "The exit lent an inner address that is in use here already; "
            "name an exit that lends others with --via."
        )
        self._board.emit(CircuitFailed(pending.number, error))
        lasts_s = self._rng.uniform(*_UNUSED_CIRCUIT_S)
        expires_at = now + min(lasts_s, self._settings.lifetime_s)
        self._keep(pending, confirm, _NOTHING, now, expires_at)
        self._unused.append(pending.number)
        if len(self._unused) > _MOST_UNUSED:
            self.close(self._unused.pop(0), CircuitEnd.CLOSED, now)

    def _keep(
        self,
        pending: PendingCircuit,
        confirm: Confirm,
        configuration: IpsecConfiguration,
        now: float,
        expires_at: float,
    ) -> None:
        circuit = OpenCircuit(
            number=pending.number,
            path=pending.path,
            destination=pending.destination,
            ipsec=pending.ipsec,
            inner_addresses=confirm.inner_addresses,
            inner_configuration=configuration,
            opened_at=now,
            expires_at=expires_at,
            watch=CircuitWatch(self._watch_times, len(pending.path), now),
            ticket=confirm.ticket,
            size=self._sizes.search(now),
        )
        self._connections.put_source(circuit)
        self._keep_alive(circuit, now)
        self._rekeying.begin(circuit, now)

    def _is_taken(self, address: bytes) -> bool:
        pool = self._board.inner_pool
        return self.holds_inner(address) or (pool is not None and pool.lends(address))

    def _clashes(self, address: bytes) -> bool:
        """Tell whether this host or a destination of a circuit uses the address already."""
        found = ipaddress.ip_address(address)
        return self._inner_in_use(address) or any(
            found.version == circuit.destination.version and found in circuit.destination
            for circuit in self._connections.sources()
        )

    def holds_inner(self, address: bytes) -> bool:
        """Tell whether a circuit of this node has this inner address."""
        return any(
            address in tuple(circuit.inner_addresses)
            for circuit in self._connections.sources()
            if isinstance(circuit, OpenCircuit)
        )

    def _refused(
        self,
        circuit: PendingCircuit,
        position: int,
        reason: RefuseReason | TeardownReason,
        now: float,
    ) -> None:
        error = refusal(position, len(circuit.path), reason)
        self._fail(circuit, error, now, hops=position - 1)

    # --- time ---

    def next_deadline(self) -> float:
        """Return when :meth:`handle_deadline` has something to do."""
        return min(
            self._timers.next_deadline(),
            self._rekeying.next_deadline(),
            self._takeover.next_deadline(),
        )

    def handle_deadline(self, now: float) -> None:
        """End circuits that were not confirmed or have expired, and keep open ones alive."""
        self._rekeying.handle_deadline(now)
        self._takeover.handle_deadline(now)
        while (number := self._timers.pop_due(now)) is not None:
            circuit = self._connections.source(number)
            if isinstance(circuit, OpenCircuit):
                self._keep_alive(circuit, now)
            elif circuit is not None:
                patience_s, hops = self._settings.setup_timeout_s, len(circuit.path)
                self._fail(circuit, confirmation_missing(patience_s, hops), now)

    def _keep_alive(self, circuit: OpenCircuit, now: float) -> None:
        """Check a circuit: send PINGs, begin the move to its standby, or end it."""
        if circuit.expires_at <= now:
            self._end(circuit, CircuitClosed(circuit.number, CircuitEnd.EXPIRED), now)
            return
        watch = circuit.watch
        if watch.look(self._traffic(circuit), now):
            self._board.send(
                to_hop(circuit, position, ping) for position, ping in watch.pings(self._rng, now)
            )
        if watch.is_lost(now):
            self._lost(circuit, CircuitEnd.UNANSWERED, watch.silent_hop, now)
            return
        if watch.is_doubtful:
            self._takeover.begin(circuit.number, now)
        self._takeover.renew(circuit, now)
        next_at = min(watch.next_look(now), self._sizes.probe(circuit, now), circuit.expires_at)
        self._timers.set(circuit.number, next_at)

    def _traffic(self, circuit: OpenCircuit) -> TrafficMarks:
        sas = circuit.ipsec.hops[-1]
        return TrafficMarks(
            sent=self._mark(SaIdentity(sas.forward_spi, sas.hop)),
            heard=self._mark(SaIdentity(sas.backward_spi, sas.near)),
        )

    def _mark(self, identity: SaIdentity) -> tuple[int, int] | None:
        """Return a value that changes with each packet of an SA; None before the first packet."""
        try:
            counters = self._board.backend.query(identity)
        except BackendError:
            return None
        return (identity.spi, counters.packets) if counters and counters.packets else None

    def _confirmed_again(self, circuit: OpenCircuit, confirm: Confirm, now: float) -> None:
        """Process another CONFIRM: the answer to MOVE, or a sign that the exit missed our PING."""
        if self._takeover.confirmed(circuit, confirm, now):
            return
        ping = circuit.watch.repeat(self._rng, now)
        if ping is not None:
            self._board.send([to_hop(circuit, len(circuit.path), ping)])

    def soft_expired(self, identity: SaIdentity, now: float) -> bool:
        """Replace the keys of an SA at its soft limit; tell whether a circuit here uses it."""
        return self._rekeying.soft_expired(identity, now)

    def _not_rekeyed(self, number: int, position: int, now: float) -> None:
        """End a circuit if a hop did not answer REKEY, because its keys are at their limits."""
        circuit = self._connections.source(number)
        if isinstance(circuit, OpenCircuit):
            self._lost(circuit, CircuitEnd.NOT_REKEYED, position, now)

    def _torn_down(
        self, circuit: OpenCircuit, position: int, reason: TeardownReason, now: float
    ) -> None:
        is_exit = position == len(circuit.path)
        lost_hop = position + (reason is TeardownReason.NEXT_HOP_LOST and not is_exit)
        if is_exit:  # a standby has the same exit, so it would end as well
            self._end(circuit, CircuitLost(circuit.number, CircuitEnd.TORN_DOWN, lost_hop), now)
        else:
            self._lost(circuit, CircuitEnd.TORN_DOWN, lost_hop, now)

    def _lost(
        self, circuit: OpenCircuit, reason: CircuitEnd, silent_hop: int | None, now: float
    ) -> None:
        """End a broken circuit, unless its standby takes over."""
        lost = CircuitLost(circuit.number, reason, silent_hop)
        if self._takeover.instead_of(lost, now):
            self._timers.cancel(circuit.number)
        else:
            self._end(circuit, lost, now, hops_to_tell(lost))

    # --- the end ---

    def close(self, number: int, reason: CircuitEnd, now: float) -> None:
        """End a circuit. Nothing happens if it does not exist any more."""
        circuit = self._connections.source(number)
        if circuit is not None:
            self._end(circuit, CircuitClosed(number, reason), now)

    def close_all(self, reason: CircuitEnd, now: float) -> None:
        """End all circuits."""
        for circuit in self._connections.sources():
            self.close(circuit.number, reason, now)

    def link_lost(self, neighbour: OverlayAddress, now: float) -> None:
        """End the circuits over this link. No message can reach their hops any more."""
        for circuit in self._connections.sources():
            gone = self._connections.source(circuit.number) is not circuit
            if gone or _first_hop(circuit) != neighbour:
                continue
            if isinstance(circuit, OpenCircuit):
                self._lost(circuit, CircuitEnd.LINK_LOST, 1, now)
            else:
                self._fail(circuit, link_missing(), now, hops=0)

    def onion_failed(self, number: int, now: float) -> None:
        """End a circuit whose onion the first Mix-node has not acknowledged."""
        circuit = self._connections.source(number)
        if isinstance(circuit, PendingCircuit):
            self._fail(circuit, acknowledgement_missing(), now)

    def _fail(
        self, circuit: SourceCircuit, error: PathError, now: float, hops: int | None = None
    ) -> None:
        self._end(circuit, CircuitFailed(circuit.number, error), now, hops=hops)

    def _end(
        self, circuit: SourceCircuit, event: ApmEvent, now: float, hops: int | None = None
    ) -> None:
        """Forget a circuit and send TEARDOWN to its first ``hops`` hops (None: all)."""
        standby = self._standbys.of(circuit.number)
        move = self._standbys.forget(circuit.number)
        self._connections.remove_source(circuit.number)
        self._timers.cancel(circuit.number)
        self._board.emit(event)
        if standby is not None:
            self.close(standby, CircuitEnd.CLOSED, now)
        elif move is not None:
            self._takeover.standby_ended(move, now)
        if isinstance(circuit, OpenCircuit):
            self._board.backend.remove(circuit.inner_configuration)
        retired = self._rekeying.end(circuit.number, len(circuit.path))
        holdings = holdings_of_source(circuit).with_retired(retired)
        count = len(circuit.path) if hops is None else hops
        if isinstance(circuit, RequestedCircuit) or not count:
            self._board.release(holdings)
            return
        # The farthest hop first, because a hop that is closing forwards packets for 2 s only.
        teardown = Teardown(TeardownReason.CLOSED)
        packets = [to_hop(circuit, position, teardown) for position in range(count, 0, -1)]
        self._board.begin_closing(holdings, packets, now)

    # --- views ---

    def reports(self) -> list[CircuitReport]:
        """Return all circuits as values."""
        return [
            circuit_report(circuit, self._standbys.primary_of(circuit.number))
            for circuit in self._connections.sources()
        ]


def _first_hop(circuit: SourceCircuit) -> OverlayAddress:
    return circuit.path.hops[0].overlay_address
