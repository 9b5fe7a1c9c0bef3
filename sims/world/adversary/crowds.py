"""Attacks with many identities: Sybils of one network, and ids near a key."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from random import Random
from typing import ClassVar, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from overlay.addresses import Endpoint, NodeId
from overlay.identity import LocalIdentity, node_id_of
from sims.world.adversary.attack import Attack, AttackContext
from sims.world.participants.machine import Machine

__all__ = ["EclipseAttack", "SybilAttack", "identities_near", "sybil_endpoint"]

_SEARCHED_PER_ID: Final = 2
"""Keys to try, in units of the population, so that nearly all ids are nearer than honest ones."""

_MOST_SEARCHED: Final = 200_000


class SybilAttack(Attack):
    """``sybil``: add machines of one /24."""

    order: ClassVar[int] = 1
    needs_share: ClassVar[bool] = False

    def __init__(self, context: AttackContext) -> None:
        self._world = context.world
        self._count = context.settings.sybils

    def begin(self, victim: Machine) -> Sequence[Machine]:  # noqa: ARG002 - the interface's
        """Add the machines."""
        self.sybils = [
            self._world.add(sybil_endpoint(number), honest=False) for number in range(self._count)
        ]
        return self.sybils


class EclipseAttack(Attack):
    """``eclipse``: add machines whose ids are near the id of the victim."""

    order: ClassVar[int] = 2
    needs_share: ClassVar[bool] = False

    def __init__(self, context: AttackContext) -> None:
        self._context = context

    def begin(self, victim: Machine) -> Sequence[Machine]:
        """Search ids near the victim's, and add a machine for each."""
        self.target = victim
        world = self._context.world
        found = identities_near(
            victim.node_id,
            self._context.settings.eclipse_ids,
            self._context.population,
            world.streams.stream("adversary", "search"),
        )
        return [world.add(honest=False, identity=identity) for identity in found]


def sybil_endpoint(number: int) -> Endpoint:
    """Return an endpoint in the adversary's /24; beyond 254 machines share addresses."""
    port, host = divmod(number, 254)
    return Endpoint(f"198.41.7.{host + 1}", 4500 + port)


def identities_near(key: NodeId, count: int, population: int, rng: Random) -> list[LocalIdentity]:
    """Return identities with ids near a key, found by trying keys as an attacker must."""
    goal = int.from_bytes(key, "big")
    tries = min(_MOST_SEARCHED, _SEARCHED_PER_ID * count * max(population, 1))
    nearest: list[tuple[int, bytes]] = []
    for _ in range(max(tries, count)):
        private = rng.randbytes(32)
        public = Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
        distance = int.from_bytes(node_id_of(public), "big") ^ goal
        if len(nearest) < count:
            heapq.heappush(nearest, (-distance, private))
        elif -distance > nearest[0][0]:
            heapq.heapreplace(nearest, (-distance, private))
    return [
        LocalIdentity.from_private_bytes(private, rng.randbytes(32), rng.randbytes(32))
        for _, private in sorted(nearest, reverse=True)
    ]
