"""Parse single settings: each parser takes a TOML value and returns a checked value.

A parser raises ValueError with a message that continues "[section] setting ..." and says what to
write instead.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from overlay.addresses import OVERLAY_NETWORKS, Endpoint, IpNetwork
from overlay.apm.inner_addresses import pool_problem
from overlay.destinations import parse_destination, shown_destination
from overlay.errors import ConfigurationError, Malformed
from overlay.exit_policy import ExitRule, parse_exit_rule
from overlay.ipsec.suites import SUITES
from overlay.special_networks import (
    FORBIDDEN_NETWORKS,
    SITE_NETWORKS,
    forbidden_network,
    lies_in,
)

__all__ = [
    "boolean",
    "destinations",
    "endpoint",
    "endpoint_problem",
    "endpoints",
    "esp_suite",
    "exit_rules",
    "file_path",
    "forbidden_prefixes",
    "inner_ipv4_pool",
    "inner_ipv6_pool",
    "integer",
    "name",
    "network_name",
]

MAX_ENDPOINTS: Final = 64
MAX_DESTINATIONS: Final = 128
"""Half of the paths that a node may have; each one needs a route and a circuit."""

_BROADCAST: Final = ipaddress.IPv4Address("255.255.255.255")
_NETWORK_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,32}")
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*\.?")


def boolean(value: object) -> bool:
    """Parse true or false; no other value is converted."""
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {_shown(value)}")  # noqa: TRY004 - the user's
    return value


def integer(lowest: int, highest: int) -> Callable[[object], int]:
    """Return a parser of whole numbers within a range."""

    def parse(value: object) -> int:
        if type(value) is not int or not lowest <= value <= highest:
            raise ValueError(
                f"must be a whole number from {lowest} to {highest}, not {_shown(value)}"
            )
        return value

    return parse


def name(value: object) -> str:
    """Parse the name of a plug-in; it is not checked here whether the plug-in exists."""
    return _text(value, 'must be a name in quotes such as "none"')


def network_name(value: object) -> str:
    """Parse the name that separates overlays; it is part of every control message."""
    text = _text(value, 'must be a name in quotes such as "overlay"')
    if _NETWORK_NAME.fullmatch(text) is None:
        raise ValueError(
            f"must be 1 to 32 letters, digits, dots, dashes or underscores, not {_shown(text)}"
        )
    return text


def file_path(value: object) -> Path:
    """Parse the path of a file or directory; ``~`` is the home directory of the user."""
    text = _text(value, "must be a path in quotes")
    if not text or "\0" in text:
        raise ValueError("must be a path that is not empty")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"names a home directory that is not known: {_shown(text)}") from error


def endpoint(value: object) -> Endpoint:
    """Parse ``ADDRESS:PORT`` or ``[IPV6-ADDRESS]:PORT``; host names are refused."""
    text = _text(value, 'must be an endpoint in quotes such as "192.0.2.1:4500"')
    host, separator, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f'has {_shown(text)}; write an IPv6 endpoint as "[2001:db8::1]:4500"')
    if not separator or not re.fullmatch(r"[0-9]{1,5}", port):
        raise ValueError(
            f'has {_shown(text)}, which names no port; write both, as in "192.0.2.1:4500"'
        )
    return _endpoint_of(host, int(port), text)


def endpoint_problem(
    endpoint: Endpoint, *, private: bool, allow: str = "set allow_private_endpoints = true"
) -> str | None:
    """Return why an endpoint cannot be that of another node, or None if it can.

    Args:
        endpoint: the endpoint that the user wrote.
        private: whether private and documentation addresses are allowed.
        allow: text for the message: how the user can allow such addresses.
    """
    address = endpoint.address
    if address.is_unspecified:
        return "which stands for all addresses of a host; write one of them"
    if address.is_multicast or address == _BROADCAST:
        return "which is not the address of one host; write one that is"
    kind = None if private else forbidden_network(address)
    if kind is None:
        return None
    article = "an" if kind[0] in "aeiou" else "a"
    return (
        f"{article} {kind} address; write a public one, or {allow} for a laboratory or a private "
        "mesh"
    )


def endpoints(fewest: int) -> Callable[[object], tuple[Endpoint, ...]]:
    """Return a parser of lists of at least ``fewest`` different endpoints."""

    def parse(value: object) -> tuple[Endpoint, ...]:
        texts = _texts(value, 'must be a list of endpoints such as ["192.0.2.1:4500"]')
        if not fewest <= len(texts) <= MAX_ENDPOINTS:
            raise ValueError(f"must name {fewest} to {MAX_ENDPOINTS} endpoints, not {len(texts)}")
        parsed = tuple(endpoint(text) for text in texts)
        if len(set(parsed)) != len(parsed):
            raise ValueError("names an endpoint twice; write each once")
        return parsed

    return parse


def destinations(value: object) -> tuple[IpNetwork, ...]:
    """Parse a list of different addresses and prefixes that can be destinations of paths."""
    texts = _texts(value, 'must be a list of destinations such as ["203.0.113.0/24"]')
    if len(texts) > MAX_DESTINATIONS:
        raise ValueError(f"must name at most {MAX_DESTINATIONS} destinations, not {len(texts)}")
    networks = tuple(_destination(text) for text in texts)
    if len(set(networks)) != len(networks):
        raise ValueError("names a destination twice; write each once")
    return networks


def exit_rules(value: object) -> tuple[ExitRule, ...]:
    """Parse the rules of the exit; their order is the order in which they are applied."""
    rules: list[ExitRule] = []
    for text in _texts(value, 'must be a list of rules such as ["reject *:25", "accept *:*"]'):
        try:
            rules.extend(parse_exit_rule(text))
        except ConfigurationError as error:
            raise ValueError(f"is wrong: {str(error).rstrip('.')}") from error
    return tuple(rules)


def forbidden_prefixes(value: object) -> tuple[IpNetwork, ...]:
    """Parse prefixes inside :data:`FORBIDDEN_NETWORKS` that the operator allows."""
    return tuple(
        _forbidden_prefix(text)
        for text in _texts(value, 'must be a list of prefixes such as ["192.168.7.0/24"]')
    )


def inner_ipv4_pool(value: object) -> ipaddress.IPv4Network:
    """Parse the prefix from which the exit lends each circuit an IPv4 address."""
    network = _inner_pool(value, "10.77.0.0/16")
    if not isinstance(network, ipaddress.IPv4Network):
        raise ValueError(f'must be an IPv4 prefix, as "10.77.0.0/16", not "{network}"')  # noqa: TRY004 - the user's
    return network


def inner_ipv6_pool(value: object) -> ipaddress.IPv6Network:
    """Parse the unique local prefix (RFC 4193) from which the exit lends IPv6 addresses."""
    network = _inner_pool(value, "fd69:6e6e:6572::/64")
    if not isinstance(network, ipaddress.IPv6Network):
        raise ValueError(f'must be an IPv6 prefix, as "fd69:6e6e:6572::/64", not "{network}"')  # noqa: TRY004 - the user's
    return network


def _inner_pool(value: object, example: str) -> IpNetwork:
    network = _network(_text(value, f'must be a prefix in quotes such as "{example}"'))
    problem = pool_problem(network)
    if problem is not None:
        kind = forbidden_network(network.network_address) or "public"
        raise ValueError(f'must {problem}, as "{example}", not the {kind} prefix "{network}"')
    return network


def esp_suite(value: object) -> int:
    """Parse the name of an ESP suite and return its number (``overlay.ipsec.suites``).

    The suite for experiments (3DES) cannot be configured.
    """
    text = _text(value, 'must be the name of an ESP suite such as "aes-256-gcm"')
    numbers = {suite.name: suite.number for suite in SUITES.values() if not suite.experiment}
    if text not in numbers:
        raise ValueError(f"has no ESP suite {_shown(text)}; write one of {', '.join(numbers)}")
    return numbers[text]


def _text(value: object, wanted: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{wanted}, not {_shown(value)}")  # noqa: TRY004 - the user's mistake
    return value


def _texts(value: object, wanted: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{wanted}, not {_shown(value)}")
    return value


def _endpoint_of(host: str, port: int, text: str) -> Endpoint:
    try:
        return Endpoint.parse(host, port)
    except Malformed as error:
        if not 1 <= port <= 65535:
            raise ValueError(f"has {_shown(text)}; a port lies between 1 and 65535") from error
        if _HOST_NAME.fullmatch(host) and not re.fullmatch(r"[0-9.]+", host):
            raise ValueError(
                f"has the host name {_shown(host)}; write its address, because resolving it would "
                "tell a name server which node you contact"
            ) from error
        raise ValueError(f"has {_shown(text)}; write a literal IP address and a port") from error


def _destination(text: str) -> IpNetwork:
    try:
        network = parse_destination(text)
    except Malformed as error:
        shown = shown_destination(text)
        reason = str(error).removeprefix(f"{shown} ").removesuffix(".")
        raise ValueError(f"has {shown}, which {reason}") from error
    for own in OVERLAY_NETWORKS:
        if network.version == 6 and network.overlaps(own):
            raise ValueError(f'has "{network}", which overlaps the overlay\'s own {own}')
    for forbidden, what in SITE_NETWORKS:
        if network.version == forbidden.version and forbidden.subnet_of(network):  # type: ignore[arg-type]  # same version
            raise ValueError(
                f'has "{network}", which contains all of {forbidden} ({what}); name smaller '
                "prefixes or single addresses"
            )
    return network


def _forbidden_prefix(text: str) -> IpNetwork:
    network = _network(text)
    for forbidden, _what in FORBIDDEN_NETWORKS:
        if lies_in(network, forbidden):
            return network
    raise ValueError(
        f'has "{network}", which is in no forbidden range; leave it out, '
        "and use [exit] policy instead"
    )


def _network(text: str) -> IpNetwork:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(
            f'has {_shown(text)}, which is no prefix; write it as "192.168.7.0/24", '
            "with no bits after its length"
        ) from error


def _shown(value: object) -> str:
    """Return a value of the user for a message, cut to 80 characters."""
    shown = f'"{value}"' if isinstance(value, str) else repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
