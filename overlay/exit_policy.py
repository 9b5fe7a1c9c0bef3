"""The destinations that an exit permits: an ordered list of rules, signed in its Mix descriptor.

Destinations that are not globally reachable (:mod:`overlay.special_networks`) are refused
whatever the rules say, unless the exit's operator permits prefixes of them by name.

A descriptor contains a policy as plain lists (:meth:`ExitPolicy.encode`). A configuration file has
one line of text for each rule (:func:`parse_exit_rule`)::

    accept 203.0.113.0/24:80-443      reject *:25
    accept [2001:db8::]/32:*          accept *:*
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from overlay.addresses import IpAddress, IpNetwork
from overlay.errors import ConfigurationError, Malformed
from overlay.special_networks import DOCUMENTATION_NETWORKS, forbidden_network, opens

__all__ = [
    "MAX_RULES",
    "ExitPolicy",
    "ExitRule",
    "format_exit_rules",
    "parse_exit_rule",
]

MAX_RULES: Final = 16
"""This keeps a descriptor below 1,000 bytes: 16 rules for single IPv6 hosts take 464 bytes."""

_ALL_NETWORKS: Final[tuple[IpNetwork, IpNetwork]] = (
    ipaddress.IPv4Network("0.0.0.0/0"),
    ipaddress.IPv6Network("::/0"),
)


@dataclass(frozen=True, slots=True)
class ExitRule:
    """Accept or reject a prefix and a range of TCP/UDP ports (0 to 65535 means every protocol)."""

    accept: bool
    network: IpNetwork
    first_port: int = 0
    last_port: int = 65535

    def __post_init__(self) -> None:
        if not 0 <= self.first_port <= self.last_port <= 65535:
            raise Malformed("the ports of an exit rule must be from 0 to 65535, lower one first")

    @property
    def every_port(self) -> bool:
        """Tell whether the rule covers every port, and so also protocols without ports."""
        return self.first_port == 0 and self.last_port == 65535

    def covers(self, destination: IpAddress, port: int | None) -> bool:
        """Tell whether the rule covers this destination; ``port`` is None if there is no port."""
        if destination.version != self.network.version or destination not in self.network:
            return False
        if self.every_port:
            return True
        return port is not None and self.first_port <= port <= self.last_port


@dataclass(frozen=True, slots=True)
class ExitPolicy:
    """The first rule that covers a destination decides; if no rule does, it is refused.

    ``allowed_forbidden`` are forbidden prefixes that the operator permits by name. Documentation
    networks, which laboratories permit, do not count in the limit.
    """

    rules: tuple[ExitRule, ...]
    allowed_forbidden: tuple[IpNetwork, ...] = ()

    def __post_init__(self) -> None:
        if self.room < 0 or len(self.allowed_forbidden) > MAX_RULES:
            raise Malformed(
                f"an exit policy has at most {MAX_RULES} rules and opened prefixes, not "
                f"{len(self.rules) + len(self.allowed_forbidden)}"
            )

    @property
    def room(self) -> int:
        """How many more rules the policy could hold."""
        opened = set(self.allowed_forbidden).difference(DOCUMENTATION_NETWORKS)
        return MAX_RULES - len(self.rules) - len(opened)

    def permits(self, destination: IpAddress, port: int | None = None) -> bool:
        """Tell whether a packet to ``destination`` may leave; ``port`` None if it has none.

        When a path is chosen, the port is not known yet. :meth:`might_permit` is for this case.
        """
        if not self._may_be_reached(destination):
            return False
        for rule in self.rules:
            if rule.covers(destination, port):
                return rule.accept
        return False

    def might_permit(self, destination: IpAddress) -> bool:
        """Tell whether some port of ``destination`` may be reached."""
        if not self._may_be_reached(destination):
            return False
        for rule in self.rules:
            if destination.version != rule.network.version or destination not in rule.network:
                continue
            if rule.accept:
                return True
            if rule.every_port:
                return False
        return False

    def serves(self, version: int) -> bool:
        """Tell whether any rule accepts destinations of an IP version."""
        return any(rule.accept and rule.network.version == version for rule in self.rules)

    def encode(self) -> list[object]:
        """Return the policy as plain msgpack values: ``[[rule, ...], [opened network, ...]]``.

        A rule is ``[accept, network]``, followed by ``first port, last port`` unless it covers
        every port. A network is ``version (4 or 6), length in bits, prefix``, where the prefix has
        as many bytes as the length needs. Inside a rule, these three are no list of their own.
        """
        return [
            [_encode_rule(rule) for rule in self.rules],
            [_encode_network(network) for network in self.allowed_forbidden],
        ]

    @classmethod
    def decode(cls, value: object) -> ExitPolicy:
        """Return the policy that a peer sent in the form of :meth:`encode`.

        Raises:
            Malformed: ``value`` is no encoding of a policy; each policy has exactly one.
        """
        rules, opened = _list_of(value, 2, 2)
        return cls(
            tuple(_decode_rule(rule) for rule in _list_of(rules, 0, MAX_RULES)),
            tuple(_decode_network(network) for network in _list_of(opened, 0, MAX_RULES)),
        )

    def _may_be_reached(self, destination: IpAddress) -> bool:
        if forbidden_network(destination) is None:
            return True
        return any(opens(network, destination) for network in self.allowed_forbidden)


# -- within a descriptor -------------------------------------------------------------


def _encode_network(network: IpNetwork) -> list[object]:
    prefix = network.network_address.packed[: -(-network.prefixlen // 8)]
    return [network.version, network.prefixlen, prefix]


def _encode_rule(rule: ExitRule) -> list[object]:
    ports = [] if rule.every_port else [rule.first_port, rule.last_port]
    return [rule.accept, *_encode_network(rule.network), *ports]


def _decode_network(value: object) -> IpNetwork:
    version, length, prefix = _list_of(value, 3, 3)
    bits = {4: 32, 6: 128}.get(version) if type(version) is int else None
    if bits is None or type(length) is not int or not 0 <= length <= bits:
        raise Malformed("a network needs an IP version and a length in bits that fits it")
    if not isinstance(prefix, bytes) or len(prefix) != -(-length // 8):
        raise Malformed("a network's prefix has as many bytes as its length needs")
    packed = prefix.ljust(bits // 8, b"\0")
    try:
        if bits == 32:
            return ipaddress.IPv4Network((packed, length))
        return ipaddress.IPv6Network((packed, length))
    except ValueError as error:
        raise Malformed("a network has bits beyond its length") from error


def _decode_rule(value: object) -> ExitRule:
    fields = _list_of(value, 4, 6)
    accept, network, ports = fields[0], _decode_network(fields[1:4]), fields[4:]
    if not isinstance(accept, bool) or len(ports) == 1:
        raise Malformed("an exit rule is [accept, version, length, prefix], optionally two ports")
    if not ports:
        return ExitRule(accept, network)
    first, last = ports
    if type(first) is not int or type(last) is not int:
        raise Malformed("an exit rule's ports are integers")
    rule = ExitRule(accept, network, first, last)
    if rule.every_port:
        raise Malformed("an exit rule for every port leaves the ports out")
    return rule


def _list_of(value: object, at_least: int, at_most: int) -> list[object]:
    if not isinstance(value, list) or not at_least <= len(value) <= at_most:
        raise Malformed("an exit policy's lists have fixed sizes")
    return value


# -- in the configuration file ---------------------------------------------------------

_RULE: Final = re.compile(
    r"(?P<verb>accept|reject)\s+"
    r"(?P<network>\*|\[(?P<v6>[0-9A-Fa-f:.]+)\](?P<v6_length>/\d{1,3})?|[0-9.]+(/\d{1,2})?)"
    r":(?P<ports>\*|\d{1,5}(-\d{1,5})?)",
    re.ASCII,
)


def parse_exit_rule(text: str) -> tuple[ExitRule, ...]:
    """Read one rule, such as ``accept 203.0.113.0/24:80-443``; ``*`` gives one per IP version.

    Raises:
        ConfigurationError: it is no rule; the message shows the form of a rule.
    """
    match = _RULE.fullmatch(text.strip())
    if match is None:
        raise ConfigurationError(
            f"the exit rule {text!r} cannot be read; write 'accept' or 'reject', a network and "
            f"its ports, for example 'accept 203.0.113.0/24:80-443', "
            f"'accept [2001:db8::]/32:*' or 'reject *:25'."
        )
    first, last = _parse_ports(text, match["ports"])
    accept = match["verb"] == "accept"
    return tuple(ExitRule(accept, net, first, last) for net in _parse_networks(text, match))


def format_exit_rules(rules: Iterable[ExitRule]) -> list[str]:
    """Write rules in the form of :func:`parse_exit_rule`, with ``*`` for both IP versions."""
    lines: list[str] = []
    pending: ExitRule | None = None
    for rule in rules:
        if pending is not None and _is_pair(pending, rule):
            lines[-1] = _format_rule(rule, "*")
            pending = None
            continue
        lines.append(_format_rule(rule, _format_network(rule.network)))
        pending = rule
    return lines


def _parse_ports(text: str, ports: str) -> tuple[int, int]:
    if ports == "*":
        return 0, 65535
    first, _, last = ports.partition("-")
    low, high = int(first), int(last or first)
    if not low <= high <= 65535:
        raise ConfigurationError(
            f"the exit rule {text!r} has ports out of range; write one port, '80-443' "
            f"with the lower port first and none above 65535, or '*'."
        )
    return low, high


def _parse_networks(text: str, match: re.Match[str]) -> tuple[IpNetwork, ...]:
    if match["network"] == "*":
        return _ALL_NETWORKS
    prefix = match["v6"] + (match["v6_length"] or "") if match["v6"] else match["network"]
    try:
        return (ipaddress.ip_network(prefix),)
    except ValueError as error:
        raise ConfigurationError(
            f"the exit rule {text!r} has no valid network: {error}; write an address and a length "
            f"in bits with no bits set beyond it, for example 203.0.113.0/24 or [2001:db8::]/32."
        ) from error


def _is_pair(first: ExitRule, second: ExitRule) -> bool:
    return (first.network, second.network) == _ALL_NETWORKS and (
        (first.accept, first.first_port, first.last_port)
        == (second.accept, second.first_port, second.last_port)
    )


def _format_rule(rule: ExitRule, network: str) -> str:
    ports = f"{rule.first_port}-{rule.last_port}"
    if rule.every_port:
        ports = "*"
    elif rule.first_port == rule.last_port:
        ports = str(rule.first_port)
    return f"{'accept' if rule.accept else 'reject'} {network}:{ports}"


def _format_network(network: IpNetwork) -> str:
    if network.version == 6:
        return f"[{network.network_address}]/{network.prefixlen}"
    return str(network)
