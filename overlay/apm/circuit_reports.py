"""Reports of this node's own circuits, for its user."""

from __future__ import annotations

import dataclasses

from overlay.apm.circuit_table import OpenCircuit, PendingCircuit, RequestedCircuit, SourceCircuit
from overlay.apm.events import CircuitReport, CircuitState

__all__ = ["circuit_report"]


def circuit_report(circuit: SourceCircuit, primary: int | None) -> CircuitReport:
    """Return the report of a circuit.

    ``primary`` is the number of the circuit whose standby it is, None if it is no standby.
    """
    report = CircuitReport(
        number=circuit.number,
        state=CircuitState.WAITING_FOR_LINK,
        hops=tuple(hop.overlay_address for hop in circuit.path.hops),
        destination=circuit.destination,
    )
    match circuit:
        case RequestedCircuit():
            return report
        case PendingCircuit():
            return dataclasses.replace(report, state=CircuitState.AWAITING_CONFIRMATION)
        case OpenCircuit():
            return dataclasses.replace(
                report,
                state=CircuitState.OPEN if primary is None else CircuitState.STANDBY,
                inner_addresses=circuit.inner_addresses,
                rtt_s=circuit.watch.rtt_s,
                opened_at=circuit.opened_at,
                packet_bytes=circuit.size.proved_bytes if circuit.size is not None else None,
            )
