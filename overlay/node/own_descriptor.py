"""What this node signs about itself, and when it signs anew."""

from __future__ import annotations

from overlay.addresses import Endpoint
from overlay.apm.crypto import X25519_SUITE
from overlay.config import Configuration
from overlay.dht.descriptor import MixDescriptor, OnionKey, Role, sign_descriptor
from overlay.errors import ConfigurationError
from overlay.identity import LocalIdentity

__all__ = ["RESIGN_INTERVAL_S", "own_descriptor", "roles_of"]

_VALIDITY_S = 3 * 3600
RESIGN_INTERVAL_S = 3600.0
"""A descriptor is renewed when a third of its life is over, so that two renewals may fail."""

_BACKDATED_S = 60
"""Others' clocks may be a little behind ours."""


def roles_of(configuration: Configuration) -> frozenset[Role]:
    """Return what this node is willing to do for others."""
    wanted = {Role.RELAY: configuration.roles.relay, Role.EXIT: configuration.roles.exit}
    return frozenset(role for role, willing in wanted.items() if willing)


def own_descriptor(
    configuration: Configuration,
    identity: LocalIdentity,
    *,
    endpoints: tuple[Endpoint, ...],
    esp_suites: frozenset[int],
    now: float,
) -> MixDescriptor:
    """Sign this node's Mix descriptor.

    The sequence number is the time in milliseconds: it grows over restarts without a file.

    Raises:
        ConfigurationError: the descriptor would be too large, or is not acceptable to others.
    """
    try:
        return _signed(configuration, identity, endpoints, esp_suites, now)
    except ValueError as error:
        raise ConfigurationError(
            f"{error}; write a shorter [exit] policy, or correct [network] advertise."
        ) from error


def _signed(
    configuration: Configuration,
    identity: LocalIdentity,
    endpoints: tuple[Endpoint, ...],
    esp_suites: frozenset[int],
    now: float,
) -> MixDescriptor:
    roles = roles_of(configuration)
    return sign_descriptor(
        identity,
        network_id=configuration.network.network_id,
        onion_keys=(OnionKey(X25519_SUITE, identity.onion_key),),
        esp_suites=tuple(sorted(esp_suites)),
        endpoints=endpoints,
        roles=roles,
        exit_policy=configuration.exit_policy() if Role.EXIT in roles else None,
        bandwidth_kbit=configuration.network.bandwidth_kbit,
        sequence=int(now * 1000),
        valid_from=int(now) - _BACKDATED_S,
        expires=int(now) - _BACKDATED_S + _VALIDITY_S,
    )
