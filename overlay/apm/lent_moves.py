"""How inner addresses move from one circuit to another at the exit.

::

    MOVE (ticket) ──> a circuit has the addresses ──> both circuits swap, that one ends
                  ──> they are kept since its link was lost ──> they change to the new circuit
                  ──> neither ──> nothing changes
    every case    ──> CONFIRM tells what the circuit has now

The link to a relay that died may be lost here before the source notices. Then the circuit ends,
but its addresses are kept for ``lent_address_hold_s`` seconds, so that connections of the source's
programs can go on over its standby circuit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from overlay.addresses import OverlayAddress
from overlay.apm.circuit_table import CircuitTable, ExitCircuit, swapped_lent
from overlay.apm.control import Teardown, TeardownReason
from overlay.apm.inner_addresses import InnerAddresses
from overlay.apm.layer import IpVersions
from overlay.apm.switchboard import Holdings, Switchboard
from overlay.apm.timers import Timers
from overlay.apm.translator import translate_lent

__all__ = ["LentMoves"]


@dataclass(frozen=True, slots=True)
class _Kept:
    """Addresses of a circuit that ended, and the neighbour that they are charged to."""

    addresses: InnerAddresses
    previous: OverlayAddress


class LentMoves:
    """Owner of inner addresses that no circuit has and that a source may still claim.

    They count among those that their neighbour was lent, so they need no bound of their own.
    """

    def __init__(
        self,
        switchboard: Switchboard,
        connections: CircuitTable,
        close: Callable[[ExitCircuit, Teardown | None, float], None],
    ) -> None:
        """Prepare; ``close`` ends a circuit and tells its source if it is given a message."""
        self._board = switchboard
        self._connections = connections
        self._close = close
        self._kept: dict[bytes, _Kept] = {}
        self._timers: Timers[bytes] = Timers()

    def __len__(self) -> int:
        """Return how many circuits' addresses are kept."""
        return len(self._kept)

    def keep(self, circuit: ExitCircuit, now: float) -> None:
        """Keep the addresses of a circuit that is forgotten because its link was lost."""
        self._kept[circuit.ticket] = _Kept(circuit.ipsec.inner_addresses, circuit.previous)
        self._timers.set(circuit.ticket, now + self._board.settings.lent_address_hold_s)

    def move(self, circuit: ExitCircuit, ticket: bytes, now: float) -> ExitCircuit | None:
        """Lend a circuit the inner addresses of a ticket.

        A ticket that came before, or whose addresses were released, changes nothing.

        Returns:
            The circuit as it is now, whose source wants a confirmation; None if it had to end.
        """
        other = self._connections.exit_with(ticket)
        if other is not None and other.number != circuit.number:
            for each in (other, circuit):
                self._board.backend.remove(translate_lent(each.ipsec))
            moved, left = swapped_lent(circuit, other)
            self._connections.put_hop(moved)
            self._connections.put_hop(left)
            self._board.lent_swapped(
                (moved.ipsec.inner_addresses, left.previous),
                (left.ipsec.inner_addresses, moved.previous),
            )
            self._close(left, None, now)
        elif ticket in self._kept:
            moved = self._claimed(circuit, ticket)
        else:
            return circuit
        if self._board.install(translate_lent(moved.ipsec)):
            return moved
        self._close(moved, Teardown(TeardownReason.SHUTDOWN), now)
        return None

    def _claimed(self, circuit: ExitCircuit, ticket: bytes) -> ExitCircuit:
        """Give a circuit kept addresses in the place of its own, which are released."""
        kept = self._kept.pop(ticket)
        self._timers.cancel(ticket)
        own = circuit.ipsec.inner_addresses
        self._board.backend.remove(translate_lent(circuit.ipsec))
        ipsec = dataclasses.replace(circuit.ipsec, inner_addresses=kept.addresses)
        moved = dataclasses.replace(circuit, ipsec=ipsec, ticket=ticket)
        self._connections.put_hop(moved)
        self._board.lent_swapped((kept.addresses, kept.previous), (own, circuit.previous))
        self._board.release(Holdings(inner_addresses=own))
        return moved

    def next_deadline(self) -> float:
        """Return when :meth:`handle_deadline` has something to do."""
        return self._timers.next_deadline()

    def handle_deadline(self, now: float) -> None:
        """Release addresses that no source has claimed."""
        while (ticket := self._timers.pop_due(now)) is not None:
            self._release(ticket)

    def release_all(self, families: IpVersions | None = None) -> None:
        """Release all kept addresses, or those of circuits that have one of these families."""
        for ticket, kept in list(self._kept.items()):
            if families is None or kept.addresses.families & families:
                self._timers.cancel(ticket)
                self._release(ticket)

    def _release(self, ticket: bytes) -> None:
        self._board.release(Holdings(inner_addresses=self._kept.pop(ticket).addresses))
