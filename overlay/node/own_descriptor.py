"""Sign this node's Mix descriptor, and the descriptor for tests of its endpoints.

Reasons: docs/decisions/0058.
"""

from __future__ import annotations

from overlay.addresses import Endpoint, IpNetwork
from overlay.apm.crypto import X25519_SUITE
from overlay.config import Configuration
from overlay.dht.descriptor import (
    BACKDATED_S,
    CLOCK_SKEW_S,
    VALIDITY_S,
    MixDescriptor,
    OnionKey,
    Role,
    sign_descriptor,
)
from overlay.errors import ConfigurationError
from overlay.identity import LocalIdentity
from overlay.node.exit_role import policy_for

__all__ = ["own_descriptor", "proof_descriptor", "roles_of"]

_BOTH_VERSIONS = frozenset((4, 6))


def roles_of(
    configuration: Configuration, exit_versions: frozenset[int] = _BOTH_VERSIONS
) -> frozenset[Role]:
    """Return the roles of this node, if it is an exit over these IP versions.

    A node that is only an exit keeps this role without any IP version, with a policy that refuses
    everything, because a descriptor needs a role.
    """
    given = configuration.roles
    exits = given.exit and (bool(exit_versions) or not given.relay)
    wanted = {Role.RELAY: given.relay, Role.EXIT: exits}
    return frozenset(role for role, willing in wanted.items() if willing)


def own_descriptor(
    configuration: Configuration,
    identity: LocalIdentity,
    *,
    endpoints: tuple[Endpoint, ...],
    esp_suites: frozenset[int],
    exit_versions: frozenset[int],
    now: float,
    sequence: int,
    refused: tuple[IpNetwork, ...] = (),
    serves: bool = True,
) -> MixDescriptor:
    """Sign this node's Mix descriptor.

    Args:
        configuration: has the roles, the exit policy and the name of the network.
        identity: signs, and has the onion key.
        endpoints: the endpoints to sign.
        esp_suites: ESP suites of the backend.
        exit_versions: IP versions over which the node is an exit.
        now: Unix seconds.
        sequence: a number above that of every descriptor that this identity has signed.
        refused: networks that circuits cannot reach, whatever the configuration permits.
        serves: False if other nodes do not reach this one; then no role is signed.

    Raises:
        ConfigurationError: the descriptor would be too large, or other nodes would refuse it.
    """
    roles = roles_of(configuration, exit_versions) if serves else frozenset()
    policy = configuration.exit_policy() if Role.EXIT in roles else None
    if policy is not None:
        policy = policy_for(policy, exit_versions, refused)
    try:
        return sign_descriptor(
            identity,
            network_id=configuration.network.network_id,
            onion_keys=(OnionKey(X25519_SUITE, identity.onion_key),),
            esp_suites=tuple(sorted(esp_suites)),
            endpoints=endpoints,
            roles=roles,
            exit_policy=policy,
            bandwidth_kbit=configuration.network.bandwidth_kbit,
            sequence=sequence,
            valid_from=int(now) - BACKDATED_S,
            expires=int(now) - BACKDATED_S + VALIDITY_S,
        )
    except ValueError as error:
        raise ConfigurationError(
            f"{error}; write a shorter [exit] policy, or correct [network] advertise."
        ) from error


def proof_descriptor(
    configuration: Configuration,
    identity: LocalIdentity,
    endpoints: tuple[Endpoint, ...],
    esp_suites: frozenset[int],
    now: float,
) -> bytes:
    """Sign a descriptor with this node's endpoints for the nodes that test them.

    It has no roles, the sequence number 0 and a short validity. So it replaces no descriptor in a
    table if one of these nodes gives it to others.
    """
    return sign_descriptor(
        identity,
        network_id=configuration.network.network_id,
        onion_keys=(OnionKey(X25519_SUITE, identity.onion_key),),
        esp_suites=tuple(sorted(esp_suites)),
        endpoints=endpoints,
        roles=(),
        exit_policy=None,
        bandwidth_kbit=0,
        sequence=0,
        valid_from=int(now) - BACKDATED_S,
        # The clocks of other nodes may be ahead of this node's clock by CLOCK_SKEW_S.
        expires=int(now) + CLOCK_SKEW_S + BACKDATED_S,
    ).encoded
