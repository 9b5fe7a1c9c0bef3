"""How a standby circuit takes the place of a circuit that is in doubt or lost.

::

    source                            exit
    MOVE (ticket) over the standby ->  takes the inner addresses from the circuit that has them,
                                       lends them to the standby, ends the other one
    moves the policies  <- CONFIRM (the addresses, the ticket) over the standby
    TEARDOWN to the hops of the circuit that was replaced

The host keeps the inner address meanwhile, so connections of programs continue. The source repeats
MOVE until the exit answers. Without an answer in time, both circuits are lost.
"""

from __future__ import annotations

import dataclasses
from typing import Final, Protocol

from overlay.apm.circuit_table import CircuitTable, OpenCircuit, PendingCircuit, SourceCircuit
from overlay.apm.control import CircuitPing, Confirm, Move, SizeProbe, Teardown
from overlay.apm.events import ApmEvent, CircuitClosed, CircuitEnd, CircuitLost, CircuitMoved
from overlay.apm.standby import PendingMove as MoveUnderWay
from overlay.apm.standby import Standbys
from overlay.apm.switchboard import Switchboard, control_packet
from overlay.apm.translator import translate_inner
from overlay.errors import LimitReached, PathError
from overlay.ipsec.interface import IpsecConfiguration
from overlay.selection.selector import MixPath

__all__ = ["EndCircuit", "Takeover", "hops_to_tell", "to_hop"]

_LEAST_LIFETIMES: Final = 4
"""A circuit is replaced in the last quarter of its lifetime at the earliest."""


class EndCircuit(Protocol):
    """Forget a circuit of this node and send TEARDOWN to its first ``hops`` hops (None: all)."""

    def __call__(
        self, circuit: SourceCircuit, event: ApmEvent, now: float, hops: int | None = None
    ) -> None:
        """End the circuit and emit ``event``."""
        ...


def to_hop(
    circuit: PendingCircuit | OpenCircuit,
    position: int,
    message: CircuitPing | Teardown | Move | SizeProbe,
) -> bytes:
    """Return the packet with a message to the hop at ``position`` (1 is the first)."""
    sas = circuit.ipsec.hops[position - 1]
    return control_packet(sas.near, sas.hop, message)


class Takeover:
    """Moves inner addresses of one source to standby circuits; :class:`Standbys` owns the state."""

    def __init__(
        self,
        switchboard: Switchboard,
        connections: CircuitTable,
        standbys: Standbys,
        end: EndCircuit,
    ) -> None:
        """Prepare; ``end`` ends a circuit that was replaced or lost."""
        self._board = switchboard
        self._connections = connections
        self._standbys = standbys
        self._end = end

    def may_have_standby(self, primary: int, path: MixPath) -> OpenCircuit:
        """Return the circuit for which ``path`` may stand by.

        Raises:
            LimitReached: the circuit is not open, has a standby already, or is a standby.
            PathError: the path has another exit.
        """
        circuit = self._opened(primary)
        if (
            circuit is None
            or self._standbys.of(primary) is not None
            or self._standbys.primary_of(primary) is not None
        ):
            raise LimitReached("this circuit is not open, or has a standby circuit already")
        if path.exit.overlay_address != circuit.path.exit.overlay_address:
            raise PathError("A standby circuit needs the same exit.")
        return circuit

    def begin(
        self, primary: int, now: float, reason: CircuitEnd = CircuitEnd.UNANSWERED
    ) -> MoveUnderWay | None:
        """Ask the exit over the standby circuit to move the addresses, if there is a standby."""
        number = self._standbys.of(primary)
        standby = self._opened(number) if number is not None else None
        if standby is None:
            return None
        gives_up_at = now + standby.watch.patience_s
        move = self._standbys.begin(primary, reason, now, gives_up_at)
        self.handle_deadline(now)
        return move

    def instead_of(self, lost: CircuitLost, now: float) -> bool:
        """Tell whether the standby takes over, so that the lost circuit ends only afterwards."""
        move = self.begin(lost.circuit, now, lost.reason)
        if move is not None:
            move.lost = move.lost or lost
        return move is not None

    def renew(self, circuit: OpenCircuit, now: float) -> None:
        """Let a standby take over from a circuit whose lifetime is nearly over.

        If the standby ends soon as well, it is closed, so that its owner requests another one.
        """
        settings = self._board.settings
        notice_s = min(settings.renewal_s, settings.lifetime_s / _LEAST_LIFETIMES)
        number = self._standbys.of(circuit.number)
        standby = self._opened(number) if number is not None else None
        if standby is None or now < circuit.expires_at - notice_s:
            return
        if standby.expires_at >= circuit.expires_at + notice_s:
            self.begin(circuit.number, now, CircuitEnd.EXPIRED)
        else:
            self._end(standby, CircuitClosed(standby.number, CircuitEnd.EXPIRED), now)

    def confirmed(self, standby: OpenCircuit, confirm: Confirm, now: float) -> bool:
        """Process a CONFIRM over an open circuit; tell whether it concerns a move.

        Before MOVE arrives, the exit may repeat the CONFIRM of the standby itself. That one has
        another ticket, so it moves nothing.
        """
        move = self._standbys.move_of(standby.number)
        if move is None or move.standby != standby.number:
            return False
        primary = self._opened(move.primary)
        if (
            primary is not None
            and confirm.ticket == primary.ticket
            and confirm.inner_addresses == primary.inner_addresses
        ):
            self._moved(primary, standby, move, now)
        return True

    def _moved(
        self, primary: OpenCircuit, standby: OpenCircuit, move: MoveUnderWay, now: float
    ) -> None:
        """Give the standby the inner addresses of its primary, as the exit has done."""
        self._standbys.forget(standby.number)
        inner = translate_inner(standby.ipsec, primary.inner_addresses, primary.destination)
        self._board.backend.remove(_policies_of(primary.inner_configuration))
        installed = self._board.install(_policies_of(inner))
        if not installed:  # only the address is left, and it is removed with the circuit
            inner = dataclasses.replace(inner, policies=())
        successor = dataclasses.replace(
            standby,
            inner_addresses=primary.inner_addresses,
            inner_configuration=inner,
            ticket=primary.ticket,
        )
        self._connections.put_source(successor)
        nothing = IpsecConfiguration((), ())
        bare = dataclasses.replace(primary, inner_configuration=nothing)
        reason, silent = move.reason, None
        if move.lost is not None:
            reason, silent = move.lost.reason, move.lost.silent_hop
        elif reason is CircuitEnd.UNANSWERED:
            silent = primary.watch.silent_hop
        moved = CircuitMoved(primary.number, standby.number, reason, silent)
        self._end(bare, moved, now, hops_to_tell(moved))
        if not installed:
            self._end(successor, CircuitLost(successor.number, CircuitEnd.UNANSWERED), now)

    def standby_ended(self, move: MoveUnderWay, now: float) -> None:
        """End the lost circuit that waited for its standby; its timer was cancelled."""
        primary = self._opened(move.primary)
        if primary is not None and move.lost is not None:
            self._end(primary, move.lost, now, hops_to_tell(move.lost))

    def next_deadline(self) -> float:
        """Return when :meth:`handle_deadline` has something to do."""
        return self._standbys.next_deadline()

    def handle_deadline(self, now: float) -> None:
        """Repeat MOVE, and end circuits that waited too long for an answer."""
        for move in self._standbys.moves():
            primary, standby = self._opened(move.primary), self._opened(move.standby)
            if primary is None or standby is None:
                self._standbys.forget(move.primary)
                self.standby_ended(move, now)
            elif move.gives_up_at <= now:
                self._give_up(move, primary, standby, now)
            elif move.repeat_at <= now:
                self._board.send([to_hop(standby, len(standby.path), Move(primary.ticket))])
                move.repeated(now)

    def _give_up(
        self, move: MoveUnderWay, primary: OpenCircuit, standby: OpenCircuit, now: float
    ) -> None:
        """End both circuits, or only the standby if its primary was in doubt and not lost."""
        if move.lost is not None:
            self._end(primary, move.lost, now, hops_to_tell(move.lost))  # and its standby
        else:
            self._end(standby, CircuitLost(standby.number, CircuitEnd.UNANSWERED), now)

    def _opened(self, number: int) -> OpenCircuit | None:
        circuit = self._connections.source(number)
        return circuit if isinstance(circuit, OpenCircuit) else None


def hops_to_tell(event: CircuitLost | CircuitMoved) -> int | None:
    """Return how many hops get TEARDOWN: all (None), or 0 if the link to them is lost."""
    return 0 if event.reason is CircuitEnd.LINK_LOST else None


def _policies_of(configuration: IpsecConfiguration) -> IpsecConfiguration:
    """Return only the policies, because the host keeps the address during a move."""
    return dataclasses.replace(configuration, local_addresses=())
