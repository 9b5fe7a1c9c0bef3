"""The Mix-node's side of signalling: accept, refuse, forward and end circuits (paper, Figure 5).

::

    onion -> replay? room? budget? -> open -> expired? -> objection? --yes--> REFUSE, closing
                                                             |no
             relay: [LinkWanted .. link up] -> soft state -> IPsec -> peeled onion forwarded
             exit:  inner addresses -> soft state -> IPsec -> CONFIRM until the source answers

:mod:`overlay.apm.rekey_hop` replaces the keys of a circuit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from random import Random

from overlay.addresses import CircuitAddress, OverlayAddress
from overlay.apm.admission import Admission
from overlay.apm.answer_sizes import AnswerSizes
from overlay.apm.carrier import OnionCarrier
from overlay.apm.circuit_holdings import holdings_of_hop
from overlay.apm.circuit_table import (
    CircuitTable,
    ExitCircuit,
    HeldCircuit,
    HopCircuit,
    InstalledHopCircuit,
    RelayedCircuit,
)
from overlay.apm.circuits import ExitIpsecInfo, OnionSas, RelayIpsecInfo
from overlay.apm.control import (
    TICKET_BYTES,
    CircuitPing,
    CircuitPong,
    Confirm,
    ControlMessage,
    Move,
    Refuse,
    RefuseReason,
    RekeyOffer,
    RekeySwitch,
    SizeProbe,
    SizeProbed,
    Teardown,
    TeardownReason,
)
from overlay.apm.crypto import OnionPrivateKey
from overlay.apm.events import ApmDrop, ExitCircuitClosed, ExitCircuitOpened, RelayReport
from overlay.apm.layer import ExitLayer, IpVersions, LayerTerms, RelayLayer
from overlay.apm.lent_moves import LentMoves
from overlay.apm.onion import SealedOnion, extract_onion_info
from overlay.apm.plan import onion_sas
from overlay.apm.rekey_hop import HopRekeying
from overlay.apm.replay import ReplayCache
from overlay.apm.retired_sas import RetiredSa
from overlay.apm.switchboard import Holdings, Switchboard, control_packet
from overlay.apm.timers import Timers
from overlay.apm.translator import ipsec_translator, translate_closing
from overlay.apm.usage import CircuitUsage
from overlay.errors import InternalError, LimitReached, Malformed, Replayed
from overlay.ipsec.interface import SaIdentity
from overlay.ipsec.lifetimes import hard_lifetime
from overlay.link.security import LinkSecurity
from overlay.work_budget import Work

__all__ = ["RelayCircuits"]


class RelayCircuits:
    """The circuits of other nodes; no other class accepts, refuses or removes them."""

    def __init__(
        self,
        switchboard: Switchboard,
        connections: CircuitTable,
        carrier: OnionCarrier,
        onion_key: OnionPrivateKey,
        rng: Random,
        *,
        relay: bool,
        inner_taken: Callable[[bytes], bool],
    ) -> None:
        self._board = switchboard
        self._connections = connections
        self._carrier = carrier
        self._onion_key = onion_key
        self._rng = rng
        self._admission = Admission(switchboard, connections, relay=relay)
        self._inner_taken = inner_taken
        self._settings = switchboard.settings
        self._replay = ReplayCache(
            self._settings.max_replay_entries,
            self._settings.max_replay_entries_per_neighbour,
            switchboard.groups,
        )
        self._timers: Timers[int] = Timers()
        self._waiting: set[int] = set()
        self._rekeying = HopRekeying(switchboard, connections, rng)
        self._usage = CircuitUsage(switchboard.backend)
        self._moves = LentMoves(switchboard, connections, self._close)
        self._answer_sizes = AnswerSizes(switchboard.emit)

    # --- onions ---

    def receive_onion_message(self, previous: OverlayAddress, message: bytes, now: float) -> None:
        """Process an onion from a neighbour whose link is up.

        Raises:
            PeerError: the onion is invalid, was changed, was seen before or has expired. The
                neighbour gets no answer.
            LimitReached: the share of the neighbour or of its prefix is used up. There is no
                answer and no entry in the replay cache. An answer without an entry would allow a
                second use of the same keys.
        """
        link = self._board.link(previous)
        if link is None:
            raise Malformed("an onion arrived over a link that is not up")
        onion = SealedOnion.parse(message)
        self._replay.check(onion.replay_tag)
        self._check_shares(previous, now)
        extracted = extract_onion_info(onion, self._onion_key)
        terms = extracted.layer.terms
        self._check_time(terms, now)
        if terms.esp_suite not in self._board.backend.capabilities().suites:
            raise Malformed("the layer names an ESP suite that this node does not support")
        self._admission.check_addresses(previous, extracted.layer)
        objection = self._admission.objection(previous, extracted.layer, now)
        if objection is not None and not self._board.can_refuse(previous):
            raise LimitReached("too many circuits of this neighbour are being refused")
        self._replay.remember(onion.replay_tag, previous, terms.expires)
        sas = onion_sas(
            self._board.own,
            terms,
            extracted.keys,
            self._connections.new_reqid,
            lifetime=hard_lifetime(terms.esp_suite),
        )
        if objection is not None:
            self._refuse(previous, link, sas, objection, now)
        elif isinstance(extracted.layer, ExitLayer):
            self._accept_exit(previous, link, sas, extracted.layer, now)
        else:
            self._accept_relay(previous, sas, extracted.layer, extracted.peeled or b"", now)

    def _check_time(self, terms: LayerTerms, now: float) -> None:
        if terms.expires <= now:
            raise Replayed("the onion signalling message has expired")
        if terms.expires > now + self._settings.max_onion_validity_s:
            raise Malformed("the onion signalling message claims to stay valid for too long")

    def _check_shares(self, previous: OverlayAddress, now: float) -> None:
        """Check the shares of the neighbour before the expensive decryption of an onion."""
        if not self._replay.admits(previous, now):
            raise LimitReached("the replay cache has no room for this neighbour")
        if not self._admission.can_answer(previous):
            raise LimitReached("this neighbour has used up its shares of circuits and of refusals")
        if not self._board.afford(Work.ONION, previous, now):
            raise LimitReached("the CPU time for requests of other nodes is used up")

    def _refuse(
        self,
        previous: OverlayAddress,
        link: LinkSecurity,
        sas: OnionSas,
        reason: RefuseReason,
        now: float,
    ) -> None:
        """Send REFUSE over the hop's backward SA, which is kept until all copies are sent."""
        configuration = translate_closing(sas, link)
        if not self._board.can_refuse(previous) or not self._board.install(configuration):
            self._board.count(ApmDrop.LIMIT)
            return
        self._board.use_link(previous)
        packet = control_packet(self._board.own, sas.near, Refuse(reason))
        self._board.begin_closing(
            Holdings(configuration, links=(previous,)), [packet], now, previous, refusal=True
        )

    def _enforce(self, number: int) -> bool:
        return self._board.install(ipsec_translator(self._connections.request_ipsec_info(number)))

    # --- acceptance ---

    def _accept_relay(
        self,
        previous: OverlayAddress,
        sas: OnionSas,
        layer: RelayLayer,
        peeled: bytes,
        now: float,
    ) -> None:
        held = HeldCircuit(self._connections.new_number(), previous, sas, layer, peeled)
        self._connections.put_hop(held)
        self._admission.circuits.add(held.number, previous)
        self._admission.next_hops.add(held.next_hop, previous)
        self._board.use_link(previous)
        self._board.use_link(held.next_hop)
        next_link = self._board.link(held.next_hop)
        if next_link is None:
            self._admission.held.add(held.number, previous)
            self._waiting.add(held.number)
            self._timers.set(held.number, now + self._settings.link_timeout_s)
            self._board.want_link(layer.next_hop)
        else:
            self._forward(held, next_link, now)

    def _forward(self, held: HeldCircuit, next_link: LinkSecurity, now: float) -> None:
        """Install the circuit and send the peeled onion to the next hop."""
        self._waits_no_more(held.number)
        ipsec = RelayIpsecInfo(
            sas=held.sas,
            previous=self._link_of(held.previous),
            far=held.layer.far,
            next_hop=held.next_hop,
            next_link=next_link,
        )
        circuit = RelayedCircuit(
            number=held.number,
            previous=held.previous,
            sas=held.sas,
            next_hop=held.next_hop,
            ipsec=ipsec,
            opened_at=now,
            expires_at=now + self._granted_s(held.layer.terms),
        )
        self._connections.put_hop(circuit)
        if not self._enforce(circuit.number):
            self._give_up(held, RefuseReason.FAILED, now)
            return
        self._timers.set(circuit.number, now + self._settings.unconfirmed_expiry_s)
        try:
            self._carrier.send(circuit.next_hop, held.peeled, circuit.number, now)
        except LimitReached:
            self._close(circuit, Refuse(RefuseReason.LIMIT), now)

    def _link_of(self, neighbour: OverlayAddress) -> LinkSecurity:
        link = self._board.link(neighbour)
        if link is None:
            raise InternalError("a circuit still exists after the end of its link")
        return link

    def _granted_s(self, terms: LayerTerms) -> float:
        return min(float(terms.lifetime_s), self._settings.lifetime_s)

    def _accept_exit(
        self,
        previous: OverlayAddress,
        link: LinkSecurity,
        sas: OnionSas,
        layer: ExitLayer,
        now: float,
    ) -> None:
        inner = self._board.lend(layer.families, previous, self._inner_taken)
        if inner is None:
            self._refuse(previous, link, sas, RefuseReason.LIMIT, now)
            return
        ipsec = ExitIpsecInfo(sas, link, inner)
        circuit = ExitCircuit(
            number=self._connections.new_number(),
            previous=previous,
            sas=sas,
            ipsec=ipsec,
            ticket=self._rng.randbytes(TICKET_BYTES),
            opened_at=now,
            expires_at=now + self._granted_s(layer.terms),
        )
        self._connections.put_hop(circuit)
        self._admission.circuits.add(circuit.number, previous)
        self._board.use_link(previous)
        if not self._enforce(circuit.number):
            self._refuse(previous, link, sas, RefuseReason.FAILED, now)
            self._remove(circuit.number)
            self._board.release(dataclasses.replace(holdings_of_hop(circuit), configuration=None))
            return
        self._board.emit(ExitCircuitOpened(inner))
        self._confirm(circuit, now)

    def _confirm(self, circuit: ExitCircuit, now: float) -> None:
        """Send CONFIRM and schedule its repetition, because it may be lost.

        The first message of the source ends the repetitions.
        """
        self._send_confirm(circuit)
        pause = self._settings.confirm_retry_s * 2**circuit.confirmations
        give_up_at = circuit.opened_at + self._settings.unconfirmed_expiry_s
        self._timers.set(circuit.number, min(now + pause, give_up_at))
        confirmations = circuit.confirmations + 1
        self._connections.put_hop(dataclasses.replace(circuit, confirmations=confirmations))

    def _send_confirm(self, circuit: ExitCircuit) -> None:
        confirm = Confirm(circuit.ipsec.inner_addresses, circuit.ticket)
        self._board.send([control_packet(self._board.own, circuit.sas.near, confirm)])

    def link_established(self, neighbour: OverlayAddress, link: LinkSecurity, now: float) -> None:
        """Forward the onions that wait for this link."""
        for number in sorted(self._waiting):
            held = self._connections.hop(number)
            if isinstance(held, HeldCircuit) and held.next_hop == neighbour:
                self._forward(held, link, now)

    def _give_up(self, held: HeldCircuit, reason: RefuseReason, now: float) -> None:
        """Refuse a circuit that was accepted and whose onion could not be forwarded."""
        self._waits_no_more(held.number)
        self._timers.cancel(held.number)
        self._remove(held.number)
        self._refuse(held.previous, self._link_of(held.previous), held.sas, reason, now)
        self._board.release(holdings_of_hop(held))

    # --- messages of sources ---

    def receive(self, near: CircuitAddress, message: ControlMessage, now: float) -> None:
        """Process a control message of the source with the circuit address ``near``."""
        circuit = self._connections.hop_by_near(near)
        match message, circuit:
            case _, None:
                self._board.count(ApmDrop.UNKNOWN_CIRCUIT)
            case CircuitPing(echo), RelayedCircuit() | ExitCircuit():
                self._board.send([control_packet(self._board.own, near, CircuitPong(echo))])
                self._source_spoke(circuit, now)
            case SizeProbe(echo, _, size), ExitCircuit():
                self._board.send([control_packet(self._board.own, near, SizeProbed(echo, size))])
                self._source_spoke(circuit, now)
                self._answer_sizes.heard(circuit, message, now)
            case RekeyOffer() | RekeySwitch(), RelayedCircuit() | ExitCircuit():
                self._rekeying.receive(circuit, message, now)
            case Move(ticket), ExitCircuit():
                self._source_spoke(circuit, now)
                self._move(circuit, ticket, now)
            case Teardown(), RelayedCircuit() | ExitCircuit():
                self._close(circuit, None, now)
            case _:
                self._board.count(ApmDrop.UNEXPECTED)

    def _source_spoke(self, circuit: InstalledHopCircuit, now: float) -> None:
        if isinstance(circuit, ExitCircuit) and not circuit.confirmed:
            self._connections.put_hop(dataclasses.replace(circuit, confirmed=True))
            idle_at = now + self._settings.idle_expiry_s
            self._timers.set(circuit.number, min(idle_at, circuit.expires_at))

    def _move(self, circuit: ExitCircuit, ticket: bytes, now: float) -> None:
        """Move the inner addresses of a ticket to this circuit, and confirm its addresses."""
        moved = self._moves.move(self._present(circuit.number), ticket, now)
        if moved is not None:
            self._answer_sizes.moved(moved)
            self._send_confirm(moved)

    def _present(self, number: int) -> ExitCircuit:
        circuit = self._connections.hop(number)
        if not isinstance(circuit, ExitCircuit):
            raise InternalError("a circuit has ended while a message of its source was processed")
        return circuit

    # --- time ---

    def next_deadline(self) -> float:
        """Return when :meth:`handle_deadline` must be called next (Unix seconds)."""
        return min(
            self._timers.next_deadline(),
            self._rekeying.next_deadline(),
            self._moves.next_deadline(),
            self._answer_sizes.next_deadline(),
        )

    def handle_deadline(self, now: float) -> None:
        """Refuse circuits that waited too long; end those that are unused, idle or expired."""
        self._rekeying.handle_deadline(now)
        self._moves.handle_deadline(now)
        while (number := self._answer_sizes.pop_due(now)) is not None:
            self._answer_sizes.expire(self._present(number))
        while (number := self._timers.pop_due(now)) is not None:
            circuit = self._connections.hop(number)
            if isinstance(circuit, HeldCircuit):
                self._give_up(circuit, RefuseReason.UNREACHABLE, now)
            elif circuit is not None:
                self._review(circuit, now)

    def _review(self, circuit: InstalledHopCircuit, now: float) -> None:
        """End a circuit that is expired or whose forward SA was not used for too long."""
        last_used = self._last_used(circuit, now)
        if circuit.expires_at <= now:
            self._close(circuit, Teardown(TeardownReason.EXPIRED), now)
        elif last_used is not None:
            idle_at = last_used + self._settings.idle_expiry_s
            if idle_at <= now:
                self._forget(circuit)
            else:
                self._timers.set(circuit.number, min(idle_at, circuit.expires_at))
        elif circuit.opened_at + self._settings.unconfirmed_expiry_s <= now:
            self._forget(circuit)
        elif isinstance(circuit, ExitCircuit):
            self._confirm(circuit, now)

    def _last_used(self, circuit: InstalledHopCircuit, now: float) -> float | None:
        """Return when the source last sent through this hop, None if it never did."""
        in_use = SaIdentity(circuit.sas.forward_spi, circuit.sas.hop)
        unproven = self._rekeying.unproven(circuit.number)
        forward = [each for each in (unproven, in_use) if each is not None]
        return self._usage.last_used(circuit.number, forward, now)

    # --- the end ---

    def withdraw(self, families: IpVersions, now: float) -> None:
        """End the exit circuits of these IP versions, and notify their sources."""
        self._moves.release_all(families)
        for circuit in self._connections.hops():
            if isinstance(circuit, ExitCircuit) and (
                circuit.ipsec.inner_addresses.families & families
            ):
                self._close(circuit, Teardown(TeardownReason.WITHDRAWN), now)

    def close_all(self, now: float) -> None:
        """End all circuits of other nodes, and notify their sources."""
        self._moves.release_all()
        for circuit in self._connections.hops():
            if isinstance(circuit, HeldCircuit):
                self._give_up(circuit, RefuseReason.FAILED, now)
            else:
                self._close(circuit, Teardown(TeardownReason.SHUTDOWN), now)
            # The node stops before the circuit is closed, so report the end of its addresses now.
            if isinstance(circuit, ExitCircuit):
                self._board.emit(ExitCircuitClosed(circuit.ipsec.inner_addresses))

    def link_lost(self, neighbour: OverlayAddress, now: float) -> None:
        """End the circuits over this link; notify sources that are reached over another link."""
        for circuit in self._connections.hops():
            if circuit.previous == neighbour:
                self._cut_off(circuit, now)
            elif isinstance(circuit, HeldCircuit):
                if circuit.next_hop == neighbour:
                    self._give_up(circuit, RefuseReason.UNREACHABLE, now)
            elif isinstance(circuit, RelayedCircuit) and circuit.next_hop == neighbour:
                self._close(circuit, Teardown(TeardownReason.NEXT_HOP_LOST), now)

    def onion_failed(self, number: int, now: float) -> None:
        """Refuse a circuit whose next hop did not acknowledge the onion."""
        circuit = self._connections.hop(number)
        if isinstance(circuit, RelayedCircuit) and self._last_used(circuit, now) is None:
            self._close(circuit, Refuse(RefuseReason.UNREACHABLE), now)

    def _close(
        self, circuit: InstalledHopCircuit, message: Refuse | Teardown | None, now: float
    ) -> None:
        """End a circuit, but keep its SAs until the closing messages are delivered."""
        retired = self._drop(circuit)
        packets = []
        if message is not None:
            packets.append(control_packet(self._board.own, circuit.sas.near, message))
        holdings = holdings_of_hop(circuit).with_retired(retired)
        self._board.begin_closing(holdings, packets, now, circuit.previous)

    def _forget(self, circuit: HopCircuit) -> None:
        """End a circuit at once, without a message to its source."""
        retired = self._drop(circuit)
        self._board.release(holdings_of_hop(circuit).with_retired(retired))

    def _cut_off(self, circuit: HopCircuit, now: float) -> None:
        """End a circuit whose source cannot be reached; it may claim its inner addresses."""
        holdings = holdings_of_hop(circuit).with_retired(self._drop(circuit))
        if isinstance(circuit, ExitCircuit) and circuit.confirmed:
            self._moves.keep(circuit, now)
            holdings = dataclasses.replace(holdings, inner_addresses=None)
        self._board.release(holdings)

    def _drop(self, circuit: HopCircuit) -> RetiredSa:
        self._remove(circuit.number)
        self._timers.cancel(circuit.number)
        self._waits_no_more(circuit.number)
        self._usage.forget(circuit.number)
        self._answer_sizes.forget(circuit.number)
        return self._rekeying.end(circuit.number)

    def _remove(self, number: int) -> None:
        self._connections.remove_hop(number)
        self._admission.circuits.discard(number)

    def _waits_no_more(self, number: int) -> None:
        self._waiting.discard(number)
        self._admission.held.discard(number)

    # --- views ---

    def report(self) -> RelayReport:
        """Return the numbers of circuits of other nodes, and of drops."""
        exits = self._connections.count_hops(lambda circuit: isinstance(circuit, ExitCircuit))
        waiting = len(self._waiting)
        return RelayReport(
            relayed=self._connections.hops_in_total() - exits - waiting,
            exits=exits,
            waiting=waiting,
            closing=self._board.closing_circuits(),
            remembered_onions=len(self._replay),
            drops=self._board.drops(),
        )

    def exchanges(self) -> int:
        """Return the number of circuits with a rekey exchange or with retired SAs."""
        return len(self._rekeying)
