"""Find out why a node has not joined: its bootstrap nodes, and packet filters of this host."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from typing import Final

from overlay.addresses import Endpoint, version_of
from overlay.config.values import endpoint
from overlay.dht.events import Standing
from overlay.doctor.findings import Finding, Outcome, Purpose, Setup
from overlay.system.endpoint_probe import endpoint_errors
from overlay.system.foreign_filters import Direction, ForeignChain, foreign_chains

__all__ = ["bootstrap_nodes", "datagram_filters"]

_ADVICE: Final = (Purpose.ADVICE,)
_FILTERS: Final = "datagrams' packet filter"

_MOST_PROBED: Final = 8
"""Limit of bootstrap nodes that are probed, so that the findings stay readable."""

_CAUSES: Final = {
    errno.ECONNREFUSED: (
        "no program has that UDP port there; start the node there with: overlay up, or correct "
        "the address in [network] bootstrap"
    ),
    errno.EPERM: (
        "a packet filter of this host drops datagrams to it; see what this page says of "
        f"the {_FILTERS}"
    ),
    errno.EHOSTUNREACH: "no host answers at that address; correct it in [network] bootstrap",
    errno.ENETUNREACH: (
        "this host has no route to it; add one with: ip route add default via ROUTER"
    ),
}


def bootstrap_nodes(
    setup: Setup, errors_of: Callable[[Iterable[Endpoint]], dict[Endpoint, int]] = endpoint_errors
) -> list[Finding]:
    """Send a keepalive to each bootstrap node of a node that has not joined; name the errors."""
    status = setup.status
    if status is not None and status.joined:
        return []
    network = setup.configuration.network
    bootstrap = network.bootstrap
    if status is not None:  # overlay up --bootstrap may have named others
        bootstrap = tuple(map(endpoint, status.bootstrap))
    bootstrap = bootstrap[:_MOST_PROBED]
    versions = {version_of(each) for each in _listening(setup)}
    errors = errors_of(each for each in bootstrap if version_of(each) in versions)
    return [_bootstrap_node(each, versions, errors.get(each)) for each in bootstrap]


def _bootstrap_node(node: Endpoint, versions: set[int], number: int | None) -> Finding:
    subject, version = f"bootstrap {node}", version_of(node)
    if version not in versions:
        wildcard = "[::]:4500" if version == 6 else "0.0.0.0:4500"
        said = (
            f"the node listens on no IPv{version} address, so it cannot reach this one; add "
            f'"{wildcard}" to [network] listen.'
        )
        return Finding(subject, Outcome.LACKS, said, _ADVICE)
    if number is None:
        said = (
            "no network error; if it does not answer the node, compare network_id and date -u on "
            "both sides"
        )
        return Finding(subject, Outcome.UNKNOWN, said, _ADVICE)
    said = _CAUSES.get(number, f"sending to it failed ({os.strerror(number)})")
    return Finding(subject, Outcome.LACKS, f"{said}.", _ADVICE)


def datagram_filters(
    setup: Setup,
    chains: Callable[[int, Direction], list[ForeignChain]] = foreign_chains,
) -> list[Finding]:
    """Name packet filters of this host that may drop the datagrams of a node without contacts.

    The outcome is UNKNOWN and not LACKS, because another rule may accept these datagrams.
    """
    status = setup.status
    if (
        status is not None
        and status.joined
        and Standing.UNREACHABLE not in status.reachability.values()
    ):
        return [Finding(_FILTERS, Outcome.WORKS, "other nodes answer", _ADVICE)]
    ports = sorted({each.port for each in _listening(setup)})
    versions = sorted({version_of(each) for each in _listening(setup)})
    found = {
        (chain, direction): None
        for version in versions
        for direction in (Direction.INPUT, Direction.OUTPUT)
        for chain in chains(version, direction)
        if chain.certain and not all(map(chain.accepts, ports))
    }
    if not found:
        return [Finding(_FILTERS, Outcome.WORKS, "none of this host drops them", _ADVICE)]
    names = dict.fromkeys(chain.name for chain, _ in found)
    commands = [
        command
        for chain, direction in found
        for port in ports
        for command in chain.port_commands(port, direction)
    ]
    said = (
        f"a packet filter of this host may drop the node's datagrams ({', '.join(names)}); accept "
        f"them with: {'; '.join(dict.fromkeys(commands))}"
    )
    return [Finding(_FILTERS, Outcome.UNKNOWN, said, _ADVICE)]


def _listening(setup: Setup) -> tuple[Endpoint, ...]:
    if setup.status is not None:  # overlay up --listen may have named others
        return tuple(map(endpoint, setup.status.listen))
    return setup.configuration.network.listen
