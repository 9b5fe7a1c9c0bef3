"""What this node signs about itself, and when it signs anew.

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
    """Return what this node does for others, if it is an exit over these IP versions.

    A node that is nothing but an exit stays one, with a policy that refuses everything, because a
    descriptor needs a role.
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
    """Sign this node's Mix descriptor; an exit is one over ``exit_versions`` alone.

    ``refused`` are networks that circuits do not reach whatever the configuration permits. A node
    that does not serve, because others do not reach it, signs no role.

    ``sequence`` is above that of every descriptor that this identity has signed before.

    Raises:
        ConfigurationError: the descriptor would be too large, or is not acceptable to others.
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
    """Sign which endpoints are this node's, for the nodes that test them.

    It has no roles, the sequence number 0 and a short validity, so that it replaces no descriptor
    in the tables of others if a node that got it gives it away.
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
        # The clocks of others may be ahead of ours by as much as they may be behind.
        expires=int(now) + CLOCK_SKEW_S + BACKDATED_S,
    ).encoded
