"""Sign and verify descriptors in simulations, each distinct descriptor only once.

Every record has a real Ed25519 signature, because nodes store and return it as bytes. Thousands of
nodes verify the same record with the same result. So the result is cached, and all holders share
the decoded descriptor.
"""

from __future__ import annotations

from typing import Final

from overlay.addresses import NodeId
from overlay.dht.descriptor import (
    BACKDATED_S,
    VALIDITY_S,
    MixDescriptor,
    OnionKey,
    Role,
    sign_descriptor,
)
from overlay.dht.storage import verified_record
from overlay.exit_policy import ExitPolicy, parse_exit_rule
from sims.world.participants.machine import Machine

__all__ = ["SharedVerifier", "signed_descriptor"]

_SWEEP_AT: Final = 1024
_ESP_SUITES: Final = (1, 2, 3, 4)
_EXIT_POLICY: Final = ExitPolicy(parse_exit_rule("accept *:*"))


class SharedVerifier:
    """``verified_record`` for a whole simulation, with a cache of unexpired descriptors."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[MixDescriptor, NodeId]] = {}
        self._sweep_at = _SWEEP_AT

    def __call__(
        self, record: bytes, key: NodeId, *, network_id: str, now: float, cost_bits: int = 0
    ) -> MixDescriptor:
        """Return the descriptor of the node ``key``, or raise what the product raises."""
        known = self._known.get(record)
        if known is not None:
            descriptor, node_id = known
            in_time = descriptor.valid_from <= now < descriptor.expires
            if in_time and node_id == key and descriptor.network_id == network_id:
                return descriptor
        descriptor = verified_record(
            record, key, network_id=network_id, now=now, cost_bits=cost_bits
        )
        self._known[descriptor.encoded] = descriptor, key
        if len(self._known) > self._sweep_at:
            self._known = {r: k for r, k in self._known.items() if k[0].expires > now}
            self._sweep_at = max(_SWEEP_AT, 2 * len(self._known))
        return descriptor


def signed_descriptor(
    machine: Machine, *, network_id: str, exits: bool, now: float
) -> MixDescriptor:
    """Return a signed descriptor of a machine's node, as ``overlay.node.own_descriptor`` does."""
    identity = machine.identity
    return sign_descriptor(
        identity,
        network_id=network_id,
        onion_keys=(OnionKey(1, identity.onion_key),),
        esp_suites=_ESP_SUITES,
        endpoints=(machine.endpoint,),
        roles={Role.RELAY, Role.EXIT} if exits else {Role.RELAY},
        exit_policy=_EXIT_POLICY if exits else None,
        bandwidth_kbit=10_000,
        sequence=int(now * 1000),
        valid_from=int(now) - BACKDATED_S,
        expires=int(now) - BACKDATED_S + VALIDITY_S,
    )
