"""The interface of one attack: what an attack of a scenario can do.

``[adversary] behaviours`` names attacks. Each is a class that an entry point of the group
``sims.attacks`` registers, in this package or in another one. It is called with an
:class:`AttackContext`, once for each run. An attack derives from :class:`Attack` and overrides what
it needs: the default methods do nothing. All attacks of a scenario act together, in ascending
``order`` and then by name.

Reasons: docs/decisions/0064.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from overlay.addresses import NodeId
from overlay.dht.envelope import UnverifiedRequest
from overlay.dht.messages import Reply
from sims.scenario.sections import Adversary
from sims.world.adversary.knowledge import AdversaryKnowledge
from sims.world.participants.machine import Machine
from sims.world.participants.world import World

__all__ = ["Attack", "AttackContext"]


@dataclass(frozen=True, slots=True)
class AttackContext:
    """What an attack gets when a run is built.

    Attributes:
        world: the world, whose machines are added later. Its streams give random numbers.
        settings: the table ``[adversary]`` of the scenario.
        knowledge: what all malicious machines share.
        population: number of nodes of the scenario.
    """

    world: World
    settings: Adversary
    knowledge: AdversaryKnowledge
    population: int


class Attack(Protocol):
    """One behaviour of the adversary. The methods are called only for malicious machines.

    Attributes:
        order: attacks act in ascending order. The first that changes a reply decides.
        needs_share: whether it needs malicious nodes in the population (``[adversary] share``),
            because it adds no machines itself.
        target: the machine whose record is attacked, if there is one. Its lookups are measured
            apart (``eclipse_success``).
        sybils: machines whose places in honest routing tables are measured
            (``table_sybils_max``).
    """

    order: ClassVar[int] = 0
    needs_share: ClassVar[bool] = True
    target: Machine | None = None
    sybils: Sequence[Machine] = ()

    def begin(self, victim: Machine) -> Sequence[Machine]:  # noqa: ARG002 - for subclasses
        """Add machines of the adversary with ``world.add`` and return them; they join later.

        ``victim`` is the machine that all others know as bootstrap peer.
        """
        return ()

    def drops(self, request: UnverifiedRequest) -> bool:  # noqa: ARG002 - likewise
        """Tell whether a malicious node drops a DHT request without an answer."""
        return False

    def reply(self, node_id: NodeId, honest: Reply, request: UnverifiedRequest) -> Reply | None:  # noqa: ARG002 - likewise
        """Return what the malicious node ``node_id`` answers instead of ``honest``, or None.

        The answer is signed with the key of the node, as the honest one would be.
        """
        return None

    def denies(self, node_id: NodeId) -> bool:  # noqa: ARG002 - likewise
        """Tell whether a malicious node drops a packet of a circuit or link at this moment."""
        return False
