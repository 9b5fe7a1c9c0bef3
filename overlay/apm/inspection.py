"""Examine the circuits of a node: their keys, addresses and SPIs.

Laboratories, simulations and tests use this interface. A node reports only numbers and states
(``SignallingManager.circuits()`` and ``relay_report()``), because keys must not reach a user or a
log.
"""

from __future__ import annotations

from overlay.addresses import CircuitAddress
from overlay.apm.circuit_table import CircuitTable, HopCircuit, RequestedCircuit, SourceCircuit
from overlay.apm.circuits import ExitIpsecInfo, OnionSas, RelayIpsecInfo, SourceIpsecInfo
from overlay.ipsec.interface import Spi

__all__ = ["CircuitInspection"]


class CircuitInspection:
    """A view of the circuits of one node; it changes nothing.

    ``exchanges`` is the number of circuits of other nodes whose rekeying has state at this hop.
    """

    __slots__ = ("_table", "exchanges")

    def __init__(self, table: CircuitTable, exchanges: int) -> None:
        self._table = table
        self.exchanges = exchanges

    def own(self) -> list[SourceCircuit]:
        """Return the circuits of which this node is the source, in the order of their requests."""
        return self._table.sources()

    def own_circuit(self, number: int) -> SourceCircuit | None:
        """Return the circuit of this node with this number, None if there is none."""
        return self._table.source(number)

    def of_others(self) -> list[HopCircuit]:
        """Return the circuits of other nodes, in the order of their arrival."""
        return self._table.hops()

    def onion_sas(self) -> list[OnionSas]:
        """Return the onion SAs in use of all circuits, in any role."""
        begun = [each for each in self.own() if not isinstance(each, RequestedCircuit)]
        own = [sas for circuit in begun for sas in circuit.ipsec.hops]
        return own + [circuit.sas for circuit in self.of_others()]

    def ipsec_info(self, number: int) -> SourceIpsecInfo | RelayIpsecInfo | ExitIpsecInfo:
        """Return the IPsec information of a circuit in any role.

        Raises:
            InternalError: there is no such circuit, or it waits for a link.
        """
        return self._table.request_ipsec_info(number)

    def addresses(self) -> frozenset[CircuitAddress]:
        """Return the circuit addresses that the circuits of this node use, in any role."""
        return self._table.addresses()

    def forward_spis(self) -> frozenset[Spi]:
        """Return the SPIs that circuits of other nodes have for packets to this node."""
        return self._table.forward_spis()
