"""The kinds of the node's settings that are not numbers: names, files, addresses, rules and suites.

A parser takes a TOML value and returns a checked value; it also accepts its own results. It raises
ValueError with a message that continues "[section] setting ..." and says what to write instead.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Final

from overlay.addresses import OVERLAY_NETWORKS, Endpoint, IpNetwork
from overlay.apm.inner_addresses import pool_problem, wanted_pool
from overlay.destinations import parse_destination, shown_destination
from overlay.errors import ConfigurationError, Malformed
from overlay.exit_policy import MAX_RULES, ExitRule, parse_exit_rule
from overlay.ipsec.suites import SUITES
from overlay.settings import Kind
from overlay.settings.shown import shown
from overlay.special_networks import (
    FORBIDDEN_NETWORKS,
    SITE_NETWORKS,
    forbidden_network,
    lies_in,
)

__all__ = [
    "DESTINATIONS",
    "ESP_SUITE",
    "EXIT_RULES",
    "FILE_PATH",
    "FORBIDDEN_PREFIXES",
    "INNER_IPV4_POOL",
    "INNER_IPV6_POOL",
    "NAME",
    "NETWORK_NAME",
    "endpoint",
    "endpoint_problem",
    "endpoints",
]

MAX_ENDPOINTS: Final = 64
MAX_DESTINATIONS: Final = 128
"""Half of the paths that a node may have; each one needs a route and a circuit."""

_SUITE_NUMBERS: Final = {s.name: s.number for s in SUITES.values() if not s.experiment}
_BROADCAST: Final = ipaddress.IPv4Address("255.255.255.255")
_NETWORK_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,32}")
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*\.?")


def _name(value: object) -> str:
    """Parse the name of a plug-in; it is not checked here whether the plug-in exists."""
    return _text(value, 'must be a name in quotes such as "none"')


def _network_name(value: object) -> str:
    """Parse the name that separates overlays; it is part of every control message."""
    text = _text(value, 'must be a name in quotes such as "overlay"')
    if _NETWORK_NAME.fullmatch(text) is None:
        raise ValueError(
            f"must be 1 to 32 letters, digits, dots, dashes or underscores, not {shown(text)}"
        )
    return text


def _file_path(value: object) -> Path:
    """Parse the path of a file or directory; ``~`` is the home directory of the user."""
    if isinstance(value, Path):
        return value
    text = _text(value, "must be a path in quotes")
    if not text or "\0" in text:
        raise ValueError("must be a path that is not empty")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"names a home directory that is not known: {shown(text)}") from error


def endpoint(value: object) -> Endpoint:
    """Parse ``ADDRESS:PORT`` or ``[IPV6-ADDRESS]:PORT``; host names are refused.

    Raises:
        ValueError: the value is no endpoint; the message continues the name of the setting.
    """
    if isinstance(value, Endpoint):
        return value
    text = _text(value, 'must be an endpoint in quotes such as "192.0.2.1:4500"')
    host, separator, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f'has {shown(text)}; write an IPv6 endpoint as "[2001:db8::1]:4500"')
    if not separator or not re.fullmatch(r"[0-9]{1,5}", port):
        raise ValueError(
            f'has {shown(text)}, which names no port; write both, as in "192.0.2.1:4500"'
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


def endpoints(fewest: int) -> Kind[tuple[Endpoint, ...]]:
    """Return the kind of lists of at least ``fewest`` different endpoints."""
    example = '["192.0.2.1:4500"]'

    def parse(value: object) -> tuple[Endpoint, ...]:
        items = _items(value, f"must be a list of endpoints such as {example}")
        if not fewest <= len(items) <= MAX_ENDPOINTS:
            raise ValueError(f"must name {fewest} to {MAX_ENDPOINTS} endpoints, not {len(items)}")
        parsed = tuple(endpoint(item) for item in items)
        if len(set(parsed)) != len(parsed):
            raise ValueError("names an endpoint twice; write each once")
        return parsed

    wanted = f"a list of {fewest} to {MAX_ENDPOINTS} endpoints such as {example}"
    return Kind(wanted, parse, repeats=True)


def _destinations(value: object) -> tuple[IpNetwork, ...]:
    """Parse a list of different addresses and prefixes that can be destinations of paths."""
    items = _items(value, 'must be a list of destinations such as ["203.0.113.0/24"]')
    if len(items) > MAX_DESTINATIONS:
        raise ValueError(f"must name at most {MAX_DESTINATIONS} destinations, not {len(items)}")
    networks = tuple(_destination(str(item)) for item in items)
    if len(set(networks)) != len(networks):
        raise ValueError("names a destination twice; write each once")
    return networks


def _exit_rules(value: object) -> tuple[ExitRule, ...]:
    """Parse the rules of the exit; their order is the order in which they are applied."""
    rules: list[ExitRule] = []
    for item in _items(value, 'must be a list of rules such as ["reject *:25", "accept *:*"]'):
        try:
            rules.extend([item] if isinstance(item, ExitRule) else parse_exit_rule(str(item)))
        except ConfigurationError as error:
            raise ValueError(f"is wrong: {str(error).rstrip('.')}") from error
    return tuple(rules)


def _forbidden_prefixes(value: object) -> tuple[IpNetwork, ...]:
    """Parse prefixes inside :data:`FORBIDDEN_NETWORKS` that the operator allows."""
    return tuple(
        _forbidden_prefix(str(item))
        for item in _items(value, 'must be a list of prefixes such as ["192.168.7.0/24"]')
    )


def _inner_ipv4_pool(value: object) -> ipaddress.IPv4Network:
    """Parse the prefix from which the exit lends each circuit an IPv4 address."""
    network = _inner_pool(value, "10.77.0.0/16")
    if not isinstance(network, ipaddress.IPv4Network):
        raise ValueError(f'must be an IPv4 prefix, as "10.77.0.0/16", not "{network}"')  # noqa: TRY004 - the user's
    return network


def _inner_ipv6_pool(value: object) -> ipaddress.IPv6Network:
    """Parse the unique local prefix (RFC 4193) from which the exit lends IPv6 addresses."""
    network = _inner_pool(value, "fd69:6e6e:6572::/64")
    if not isinstance(network, ipaddress.IPv6Network):
        raise ValueError(f'must be an IPv6 prefix, as "fd69:6e6e:6572::/64", not "{network}"')  # noqa: TRY004 - the user's
    return network


def _inner_pool(value: object, example: str) -> IpNetwork:
    if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network):
        value = str(value)
    network = _network(_text(value, f'must be a prefix in quotes such as "{example}"'))
    problem = pool_problem(network)
    if problem is not None:
        kind = forbidden_network(network.network_address) or "public"
        raise ValueError(f'must {problem}, as "{example}", not the {kind} prefix "{network}"')
    return network


def _esp_suite(value: object) -> int:
    """Parse the name of an ESP suite and return its number (``overlay.ipsec.suites``).

    The suite for experiments (3DES) cannot be configured.
    """
    if type(value) is int and value in _SUITE_NUMBERS.values():
        return value
    text = _text(value, 'must be the name of an ESP suite such as "aes-256-gcm"')
    if text not in _SUITE_NUMBERS:
        raise ValueError(
            f"has no ESP suite {shown(text)}; write one of {', '.join(_SUITE_NUMBERS)}"
        )
    return _SUITE_NUMBERS[text]


def _text(value: object, wanted: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{wanted}, not {shown(value)}")  # noqa: TRY004 - the user's mistake
    return value


def _items(value: object, wanted: str) -> list[object]:
    """Return the items of a list of texts from a file, or of a tuple of parsed values."""
    if isinstance(value, tuple):
        return list(value)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{wanted}, not {shown(value)}")
    return value


def _endpoint_of(host: str, port: int, text: str) -> Endpoint:
    try:
        return Endpoint.parse(host, port)
    except Malformed as error:
        if not 1 <= port <= 65535:
            raise ValueError(f"has {shown(text)}; a port lies between 1 and 65535") from error
        if _HOST_NAME.fullmatch(host) and not re.fullmatch(r"[0-9.]+", host):
            raise ValueError(
                f"has the host name {shown(host)}; write its address, because resolving it would "
                "tell a name server which node you contact"
            ) from error
        raise ValueError(f"has {shown(text)}; write a literal IP address and a port") from error


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
            f'has {shown(text)}, which is no prefix; write it as "192.168.7.0/24", '
            "with no bits after its length"
        ) from error


NAME: Final = Kind("the name of an installed plug-in", _name)
NETWORK_NAME: Final = Kind("1 to 32 letters, digits, dots, dashes or underscores", _network_name)
FILE_PATH: Final = Kind("a path; ~ is your home directory", _file_path)
DESTINATIONS: Final = Kind(
    f'a list of at most {MAX_DESTINATIONS} destinations such as ["203.0.113.0/24"]',
    _destinations,
    repeats=True,
)
EXIT_RULES: Final = Kind(
    f'a list of at most {MAX_RULES} rules such as ["reject *:25", "accept *:*"]',
    _exit_rules,
    repeats=True,
)
FORBIDDEN_PREFIXES: Final = Kind(
    'a list of prefixes such as ["192.168.7.0/24"]', _forbidden_prefixes, repeats=True
)
INNER_IPV4_POOL: Final = Kind(wanted_pool(4), _inner_ipv4_pool)
INNER_IPV6_POOL: Final = Kind(wanted_pool(6), _inner_ipv6_pool)
ESP_SUITE: Final = Kind(f"one of {', '.join(_SUITE_NUMBERS)}", _esp_suite)
