"""Pairs of an open circuit (the primary) and its standby at the source, and moves between them.

A standby circuit leads over other relays to the exit of its primary. If the primary is in doubt,
the source asks the exit over the standby to move the inner addresses (MOVE). The exit answers with
a CONFIRM that names them. From then on the standby carries the packets::

    standing by --doubt or loss--> moving --CONFIRM names the addresses--> taken over
                                     └--patience over--> both circuits are lost

Reasons: docs/decisions/0053.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from overlay.apm.events import CircuitEnd, CircuitLost

__all__ = ["PendingMove", "Standbys"]

_FIRST_PAUSE_S: Final = 0.15
_LONGEST_PAUSE_S: Final = 1.0


@dataclass(slots=True)
class PendingMove:
    """A move whose answer is missing; times in Unix seconds.

    ``reason`` says why the standby takes over. ``lost`` says how the primary was lost; it is None
    while the primary is only in doubt, or near the end of its lifetime.
    """

    primary: int
    standby: int
    gives_up_at: float
    repeat_at: float
    reason: CircuitEnd
    pause_s: float = _FIRST_PAUSE_S
    lost: CircuitLost | None = None

    def repeated(self, now: float) -> None:
        """Record that MOVE was sent; the next repetition follows after a longer pause."""
        self.repeat_at = now + self.pause_s
        self.pause_s = min(2 * self.pause_s, _LONGEST_PAUSE_S)


class Standbys:
    """All pairs and moves; a circuit has at most one standby and one move."""

    def __init__(self) -> None:
        self._of: dict[int, int] = {}
        self._primary: dict[int, int] = {}
        self._moves: dict[int, PendingMove] = {}

    def __len__(self) -> int:
        """Return the number of standby circuits."""
        return len(self._primary)

    def add(self, primary: int, standby: int) -> None:
        """Record a pair."""
        self._of[primary], self._primary[standby] = standby, primary

    def of(self, primary: int) -> int | None:
        """Return the standby of a circuit, None if it has none."""
        return self._of.get(primary)

    def primary_of(self, standby: int) -> int | None:
        """Return the primary of a standby, None if the circuit is no standby."""
        return self._primary.get(standby)

    def begin(
        self, primary: int, reason: CircuitEnd, now: float, gives_up_at: float
    ) -> PendingMove:
        """Begin the move to the standby of ``primary``, or return the move that has begun."""
        move = self._moves.get(primary)
        if move is None:
            move = PendingMove(primary, self._of[primary], gives_up_at, now, reason)
            self._moves[primary] = move
        return move

    def move_of(self, number: int) -> PendingMove | None:
        """Return the move in which a circuit is primary or standby, None if there is none."""
        return self._moves.get(self._primary.get(number, number))

    def moves(self) -> Iterator[PendingMove]:
        """Yield all moves; they may be removed meanwhile."""
        return iter(list(self._moves.values()))

    def forget(self, number: int) -> PendingMove | None:
        """Forget the pair to which a circuit belongs; return its move, which ends with it."""
        primary = self._primary.get(number, number)
        standby = self._of.pop(primary, None)
        if standby is not None:
            del self._primary[standby]
        return self._moves.pop(primary, None)

    def next_deadline(self) -> float:
        """Return when the next move must be repeated or given up, ``math.inf`` if there is none."""
        return min(
            (min(move.repeat_at, move.gives_up_at) for move in self._moves.values()),
            default=float("inf"),
        )
