"""Decide whether a Mix-node carries a circuit of another node.

A refusal names only a class of reasons, so that a source learns little about this node.
"""

from __future__ import annotations

from overlay.addresses import CircuitAddress, OverlayAddress, is_circuit_address_between
from overlay.apm.circuit_table import CircuitTable, HeldCircuit, RelayedCircuit
from overlay.apm.control import RefuseReason
from overlay.apm.layer import ExitLayer, Layer, RelayLayer
from overlay.apm.neighbour_shares import NeighbourShares
from overlay.apm.next_hops import NextHops
from overlay.apm.switchboard import Switchboard
from overlay.errors import Malformed
from overlay.special_networks import forbidden_network

__all__ = ["Admission"]


class Admission:
    """The rules for the admission of circuits of other nodes: roles, limits and collisions.

    It has the shares of neighbours in the circuits that are carried, in those that wait for a
    link, and in the next hops of both.
    """

    def __init__(self, switchboard: Switchboard, connections: CircuitTable, *, relay: bool) -> None:
        self._board = switchboard
        self._connections = connections
        self._relay = relay
        self._settings = settings = switchboard.settings
        self.circuits: NeighbourShares[int] = NeighbourShares(
            settings.max_circuits, settings.max_circuits_per_neighbour, switchboard.groups
        )
        self.held: NeighbourShares[int] = NeighbourShares(
            settings.max_held_onions, settings.max_held_onions_per_neighbour, switchboard.groups
        )

        self.next_hops = NextHops(
            settings.max_next_hops, switchboard.groups, self._next_hops_in_use
        )

    def can_answer(self, previous: OverlayAddress) -> bool:
        """Tell whether an onion of this neighbour can have any other result than a drop.

        If not, the node need not spend CPU time on decrypting it.
        """
        return self.circuits.admits(previous) or self._board.can_refuse(previous)

    def objection(self, previous: OverlayAddress, layer: Layer, now: float) -> RefuseReason | None:
        """Return why a layer is refused, None if it is admitted.

        Args:
            previous: neighbour that sent the layer.
            layer: the request of its source to this node.
            now: Unix seconds.
        """
        if isinstance(layer, ExitLayer):
            objection = self._objection_as_exit(layer)
        else:
            objection = self._objection_as_relay(previous, layer, now)
        if objection is not None:
            return objection
        if not self.circuits.admits(previous):
            return RefuseReason.LIMIT
        if self._connections.has_hop_with(layer.terms.forward_spi) or any(
            self._connections.uses(address) for address in _addresses(layer)
        ):
            return RefuseReason.COLLISION
        return None

    def check_addresses(self, previous: OverlayAddress, layer: Layer) -> None:
        """Check that the circuit addresses belong to this node's two links of the circuit.

        Otherwise an attacker that knows an address of a circuit could ask all nodes which of them
        has it too, and so find the source (docs/decisions/0010).

        Raises:
            Malformed: an address was drawn for other nodes.
        """
        own = self._board.own
        if not is_circuit_address_between(layer.terms.near, previous, own):
            raise Malformed("the near circuit address is not for this link")
        if isinstance(layer, RelayLayer) and not is_circuit_address_between(
            layer.far, own, layer.next_hop.overlay_address
        ):
            raise Malformed("the far circuit address is not for the link to the next hop")

    def _objection_as_exit(self, layer: ExitLayer) -> RefuseReason | None:
        pool = self._board.inner_pool
        if pool is None or layer.families not in pool.families:
            return RefuseReason.NOT_OFFERED
        return None

    def _next_hops_in_use(self) -> set[OverlayAddress]:
        return {
            circuit.next_hop
            for circuit in self._connections.hops()
            if isinstance(circuit, HeldCircuit | RelayedCircuit)
        }

    def _objection_as_relay(
        self, previous: OverlayAddress, layer: RelayLayer, now: float
    ) -> RefuseReason | None:
        peer = layer.next_hop
        if not self._relay:
            return RefuseReason.NOT_OFFERED
        if peer.overlay_address in (self._board.own, previous):
            return RefuseReason.UNREACHABLE
        settings = self._settings
        # Refuse even if there is a link: a source must not learn of the links of this node.
        if not settings.allow_private_endpoints and forbidden_network(peer.endpoint.address):
            return RefuseReason.UNREACHABLE
        if not self.next_hops.admits(peer.overlay_address, previous, now):
            return RefuseReason.LIMIT
        if self._board.link(peer.overlay_address) is not None:
            return None
        return None if self.held.admits(previous) else RefuseReason.LIMIT


def _addresses(layer: Layer) -> tuple[CircuitAddress, ...]:
    if isinstance(layer, RelayLayer):
        return layer.terms.near, layer.far
    return (layer.terms.near,)
