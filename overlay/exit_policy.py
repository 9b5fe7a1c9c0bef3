"""Where an exit lets circuits out: an ordered list of rules, signed into its Mix descriptor.

Private, loopback, link-local, multicast and reserved destinations are refused whatever the
rules say, unless the exit's operator allows prefixes of them by name.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final

from overlay.addresses import IpAddress, IpNetwork
from overlay.errors import Malformed

__all__ = ["FORBIDDEN_NETWORKS", "MAX_RULES", "ExitPolicy", "ExitRule", "forbidden_network"]

MAX_RULES: Final = 16
"""Keeps a descriptor below its 1,000 bytes (16 IPv6 rules take at most 400)."""

FORBIDDEN_NETWORKS: Final[tuple[tuple[IpNetwork, str], ...]] = tuple(
    (ipaddress.ip_network(prefix), what)
    for prefix, what in (
        ("0.0.0.0/8", "unspecified"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "shared, the overlay's inner addresses"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.168.0.0/16", "private"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
        ("::/127", "unspecified or loopback"),
        ("::ffff:0:0/96", "IPv4-mapped"),
        ("64:ff9b::/96", "translated IPv4"),
        ("2002::/16", "IPv4 in 6to4"),
        ("fc00::/7", "private"),
        ("fe80::/10", "link-local"),
        ("ff00::/8", "multicast"),
    )
)
"""Destinations that could reach the exit itself or its operator's network (and why)."""


def forbidden_network(destination: IpAddress) -> str | None:
    """Return what kind of forbidden destination this is ("private", ...), or None if it is not."""
    for network, what in FORBIDDEN_NETWORKS:
        if destination.version == network.version and destination in network:
            return what
    return None


@dataclass(frozen=True, slots=True)
class ExitRule:
    """Accept or reject a prefix and a range of TCP/UDP ports (0 to 65535 means every protocol)."""

    accept: bool
    network: IpNetwork
    first_port: int = 0
    last_port: int = 65535

    def __post_init__(self) -> None:
        if not 0 <= self.first_port <= self.last_port <= 65535:
            raise Malformed("an exit rule's port range must lie within 0 and 65535, in order")

    def covers(self, destination: IpAddress, port: int | None) -> bool:
        """Tell whether the rule speaks of this destination; None stands for any port."""
        if destination.version != self.network.version or destination not in self.network:
            return False
        if self.first_port == 0 and self.last_port == 65535:
            return True
        return port is not None and self.first_port <= port <= self.last_port


@dataclass(frozen=True, slots=True)
class ExitPolicy:
    """The first rule that covers a destination decides; none means refusal.

    ``allowed_forbidden`` are prefixes inside :data:`FORBIDDEN_NETWORKS` that the operator
    opened by name.
    """

    rules: tuple[ExitRule, ...]
    allowed_forbidden: tuple[IpNetwork, ...] = ()

    def __post_init__(self) -> None:
        if len(self.rules) + len(self.allowed_forbidden) > MAX_RULES:
            raise Malformed(f"an exit policy holds at most {MAX_RULES} rules")

    def permits(self, destination: IpAddress, port: int | None = None) -> bool:
        """Tell whether a packet to ``destination`` may leave; ``port`` None if it has none.

        When a path is chosen the port is not known yet: then a rule with a port range
        counts as "might permit" only through :meth:`might_permit`.
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
            if rule.first_port == 0 and rule.last_port == 65535:
                return False
        return False

    def _may_be_reached(self, destination: IpAddress) -> bool:
        if forbidden_network(destination) is None:
            return True
        return any(
            destination.version == network.version and destination in network
            for network in self.allowed_forbidden
        )
