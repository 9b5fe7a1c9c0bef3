"""Move inner addresses from one circuit to another at the exit.

::

    MOVE (ticket) ──> a circuit has the addresses ──> both circuits swap, that one ends
                  ──> its link was lost, they are kept ──> they move to the new circuit
                  ──> neither ──> nothing changes
    every case    ──> CONFIRM names the addresses that the circuit has now

If a relay fails, the exit may lose its link before the source notices the failure. Then the
circuit ends, but its addresses are kept for ``lent_address_hold_s`` seconds. So connections of the
source's programs can continue over its standby circuit.
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
    """Addresses of a circuit that ended, and the neighbour towards whose share they count."""

    addresses: InnerAddresses
    previous: OverlayAddress


class LentMoves:
    """Inner addresses that no circuit has and that a source may still claim.

    They count towards the share of their neighbour, so they need no limit of their own.
    """

    def __init__(
        self,
        switchboard: Switchboard,
        connections: CircuitTable,
        close: Callable[[ExitCircuit, Teardown | None, float], None],
    ) -> None:
        """Store ``close``, which ends a circuit and sends the message, if any, to its source."""
        self._board = switchboard
        self._connections = connections
        self._close = close
        self._kept: dict[bytes, _Kept] = {}
        self._timers: Timers[bytes] = Timers()

    def __len__(self) -> int:
        """Return the number of circuits whose addresses are kept."""
        return len(self._kept)

    def keep(self, circuit: ExitCircuit, now: float) -> None:
        """Keep the addresses of a circuit that is removed because its link was lost."""
        self._kept[circuit.ticket] = _Kept(circuit.ipsec.inner_addresses, circuit.previous)
        self._timers.set(circuit.ticket, now + self._board.settings.lent_address_hold_s)

    def move(self, circuit: ExitCircuit, ticket: bytes, now: float) -> ExitCircuit | None:
        """Move the inner addresses of a ticket to a circuit.

        A repeated ticket, or one whose addresses were released, has no effect.

        Returns:
            The circuit afterwards, which the caller confirms to its source. None if the circuit
            had to end, because its new state could not be installed.
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
        """Replace the addresses of a circuit by kept ones, and release its own."""
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
        """Return when :meth:`handle_deadline` must be called next (Unix seconds)."""
        return self._timers.next_deadline()

    def handle_deadline(self, now: float) -> None:
        """Release addresses that no source has claimed."""
        while (ticket := self._timers.pop_due(now)) is not None:
            self._release(ticket)

    def release_all(self, families: IpVersions | None = None) -> None:
        """Release all kept addresses, or only those of circuits with one of these IP versions."""
        for ticket, kept in list(self._kept.items()):
            if families is None or kept.addresses.families & families:
                self._timers.cancel(ticket)
                self._release(ticket)

    def _release(self, ticket: bytes) -> None:
        self._board.release(Holdings(inner_addresses=self._kept.pop(ticket).addresses))
