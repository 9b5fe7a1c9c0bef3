"""Attacks on circuits."""

from __future__ import annotations

from overlay.addresses import NodeId
from sims.world.adversary.attack import Attack, AttackContext

__all__ = ["DenyCircuitsAttack"]


class DenyCircuitsAttack(Attack):
    """``deny-circuits``: break every circuit unless both ends of it are malicious.

    The adversary can link source and destination if it has the first and the last hop. It breaks
    every other circuit (selective denial of service, Borisov et al. 2007).
    """

    def __init__(self, context: AttackContext) -> None:
        self._world = context.world
        self._knowledge = context.knowledge

    def denies(self, node_id: NodeId) -> bool:
        """Drop packets while a circuit through the node is opened that has an honest end."""
        owns = self._knowledge.owns
        return any(
            node_id in hops and not (owns(hops[0]) and owns(hops[-1]))
            for hops in self._world.clients.opening.values()
        )
