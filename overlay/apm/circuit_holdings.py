"""What a circuit uses on this host, to be released together."""

from __future__ import annotations

from overlay.apm.circuit_table import (
    ExitCircuit,
    HeldCircuit,
    HopCircuit,
    RelayedCircuit,
    RequestedCircuit,
    SourceCircuit,
)
from overlay.apm.switchboard import Holdings
from overlay.apm.translator import ipsec_translator

__all__ = ["holdings_of_hop", "holdings_of_source"]


def holdings_of_hop(circuit: HopCircuit) -> Holdings:
    """Return what a circuit of another node uses here."""
    match circuit:
        case HeldCircuit():
            return Holdings(links=(circuit.previous, circuit.next_hop))
        case RelayedCircuit():
            links = (circuit.previous, circuit.next_hop)
            return Holdings(ipsec_translator(circuit.ipsec), links=links)
        case ExitCircuit():
            return Holdings(
                ipsec_translator(circuit.ipsec),
                links=(circuit.previous,),
                inner_addresses=circuit.ipsec.inner_addresses,
            )


def holdings_of_source(circuit: SourceCircuit) -> Holdings:
    """Return what an own circuit uses here."""
    links = (circuit.path.hops[0].overlay_address,)
    if isinstance(circuit, RequestedCircuit):
        return Holdings(links=links)
    spis = tuple(spi for sas in circuit.ipsec.hops for spi in sas.own_spis)
    return Holdings(ipsec_translator(circuit.ipsec), spis, links)
