"""Which circuits of an exit carry large answers; their sources have proved it.

The permission is soft state. It ends if the source does not confirm it three times. A circuit that
takes over inner addresses gives them its own size::

    SIZE PROBE (is proved) ──> large answers until LASTS_S later ──> renewed, withdrawn or over

Reasons: docs/decisions/0054.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from overlay.apm.circuit_size_search import CONFIRM_S
from overlay.apm.circuit_table import ExitCircuit
from overlay.apm.control import SizeProbe
from overlay.apm.events import ExitCircuitSized
from overlay.apm.timers import Timers

__all__ = ["AnswerSizes"]

_LASTS_S: Final = 3.5 * CONFIRM_S
"""Three lost confirmations, and the time until the next one."""

_PAUSE_S: Final = 10.0
"""Least time in seconds between two permissions for a circuit, because each changes a route."""


class AnswerSizes:
    """The permissions of all circuits, by their numbers; at most one for each circuit."""

    def __init__(self, emit: Callable[[ExitCircuitSized], None]) -> None:
        """Store ``emit``, which is called with each change."""
        self._emit = emit
        self._sizes: dict[int, int] = {}
        self._not_before: dict[int, float] = {}
        self._timers: Timers[int] = Timers()

    def heard(self, circuit: ExitCircuit, probe: SizeProbe, now: float) -> None:
        """Process a probe of the source of a circuit."""
        if not probe.is_proved:
            self._set(circuit, 0)
        elif self._sizes.get(circuit.number) == probe.packet_bytes:
            self._timers.set(circuit.number, now + _LASTS_S)
        elif now >= self._not_before.get(circuit.number, now):
            self._not_before[circuit.number] = now + _PAUSE_S
            self._timers.set(circuit.number, now + _LASTS_S)
            self._set(circuit, probe.packet_bytes)

    def moved(self, circuit: ExitCircuit) -> None:
        """Apply the permission of a circuit to the inner addresses that it has taken over."""
        self._emit(
            ExitCircuitSized(circuit.ipsec.inner_addresses, self._sizes.get(circuit.number, 0))
        )

    def forget(self, number: int) -> None:
        """Forget a circuit that has ended; its inner addresses are released elsewhere."""
        self._sizes.pop(number, None)
        self._not_before.pop(number, None)
        self._timers.cancel(number)

    def next_deadline(self) -> float:
        """Return when :meth:`pop_due` may return a circuit."""
        return self._timers.next_deadline()

    def pop_due(self, now: float) -> int | None:
        """Return the number of a circuit whose permission is over; the caller expires it."""
        return self._timers.pop_due(now)

    def expire(self, circuit: ExitCircuit) -> None:
        """Withdraw a permission that was not renewed."""
        self._set(circuit, 0)

    def _set(self, circuit: ExitCircuit, packet_bytes: int) -> None:
        if self._sizes.get(circuit.number, 0) == packet_bytes:
            return
        if packet_bytes:
            self._sizes[circuit.number] = packet_bytes
        else:
            del self._sizes[circuit.number]
            self._timers.cancel(circuit.number)
        self._emit(ExitCircuitSized(circuit.ipsec.inner_addresses, packet_bytes))
