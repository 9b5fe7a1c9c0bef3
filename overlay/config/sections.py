"""Declare the settings of the sections that belong to no single block.

Settings of a block are declared in that block: ``overlay/{apm,dht,link}/settings.py``.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from overlay.addresses import Endpoint, IpNetwork
from overlay.config.values import (
    DESTINATIONS,
    ESP_SUITE,
    EXIT_RULES,
    FILE_PATH,
    FORBIDDEN_PREFIXES,
    INNER_IPV4_POOL,
    INNER_IPV6_POOL,
    NAME,
    NETWORK_NAME,
    endpoint_problem,
    endpoints,
)
from overlay.errors import Malformed
from overlay.exit_policy import MAX_RULES, ExitPolicy, ExitRule
from overlay.hop_limit import MAX_HOPS
from overlay.plurals import counted
from overlay.settings import FLAG, Settings, or_zero, seconds, setting, whole
from overlay.special_networks import forbidden_network

__all__ = [
    "ExitSettings",
    "ForwardingSettings",
    "IpsecSettings",
    "NetworkSettings",
    "NodeSettings",
    "PathSettings",
    "RoleSettings",
    "SelectionSettings",
    "TfcSettings",
]

_KEY_FILE: Final = "identity.key"
_PATHS_FILE: Final = "paths.json"
_LAST_SIGNED_FILE: Final = "last_signed.json"
_LEAST_TEST_S: Final = 5
"""Lowest interval of tests in seconds; a test of an unreachable node takes about three."""


@dataclass(frozen=True, slots=True)
class NodeSettings(Settings):
    """[node]: where the node keeps its state and how its user reaches it."""

    state_dir: Path = setting(
        ".",
        FILE_PATH,
        "Directory of the key file and of everything that the node remembers. "
        "A relative path starts at the directory of the configuration file.",
    )
    control_socket: Path = setting(
        "run/control.sock",
        FILE_PATH,
        "Unix socket on which the running node answers its owner. Its directory is created with "
        "mode 0700. A relative path starts at state_dir.",
    )

    @property
    def key_file(self) -> Path:
        """The file of the private keys."""
        return self.state_dir / _KEY_FILE

    @property
    def paths_file(self) -> Path:
        """The file of the paths that the user opened and did not close."""
        return self.state_dir / _PATHS_FILE

    @property
    def last_signed_file(self) -> Path:
        """The file of the highest numbers that this node has signed."""
        return self.state_dir / _LAST_SIGNED_FILE


@dataclass(frozen=True, slots=True)
class NetworkSettings(Settings):
    """[network]: which overlay, and the UDP endpoints that carry it."""

    network_id: str = setting(
        "overlay",
        NETWORK_NAME,
        "Name of the overlay. Nodes with another name are ignored.",
    )
    listen: tuple[Endpoint, ...] = setting(
        ["0.0.0.0:4500", "[::]:4500"],
        endpoints(1),
        "UDP endpoints to listen on. ESP and all control traffic share the port. A wildcard "
        "(0.0.0.0 or ::) of an IP version that this host does not have is left out. An address "
        "that the host gets later is used from then on.",
    )
    advertise: tuple[Endpoint, ...] = setting(
        [],
        endpoints(0),
        "UDP endpoints at which others reach this node, if they do not follow from the addresses "
        "of the host (for example behind a port forwarding). Without it a "
        "wildcard in listen stands for the address from which the host reaches others, and follows "
        "its changes.",
    )
    bootstrap: tuple[Endpoint, ...] = setting(
        [],
        endpoints(0),
        "Nodes through which this node joins the overlay. Names are refused, because resolving one "
        "tells a name server that you join. A node that has run before needs none.",
    )
    allow_private_endpoints: bool = setting(
        False,
        FLAG,
        "Use nodes at private, loopback and documentation addresses, and let circuits reach "
        "documentation addresses through this exit. Set it in laboratories and private meshes.",
    )
    bandwidth_kbit: int = setting(
        10_000,
        whole(1, 4_294_967_295, "kbit/s"),
        "Bandwidth for circuits of other nodes, which is part of the signed descriptor.",
    )
    reachability_test_s: float = setting(
        1800,
        or_zero(seconds(_LEAST_TEST_S, 86_400), "no tests"),
        "Time between two tests by other nodes of whether they reach this node. A node that is "
        "not reached offers no roles to others. It is tested again after a minute; the interval "
        "then doubles each time, up to this value.",
    )
    unauthenticated_cpu_percent: int = setting(
        25,
        whole(1, 100, "percent"),
        "Part of each second of one core that key exchanges, onions and signatures of other nodes "
        "may use. Beyond it they are dropped. Prefixes of addresses have shares of it.",
    )

    def check(self) -> None:
        """Check that endpoints of nodes are public, unless the user allows others."""
        for where, listed in (("advertise", self.advertise), ("bootstrap", self.bootstrap)):
            for endpoint in listed:
                problem = endpoint_problem(endpoint, private=self.allow_private_endpoints)
                if problem is not None:
                    raise ValueError(f'{where} has "{endpoint}", {problem}')

    @property
    def advertised(self) -> tuple[Endpoint, ...]:
        """Endpoints for the descriptor: ``advertise``, or those of ``listen`` that others can use.

        If there are none, other nodes cannot reach this node, so it cannot be a relay.
        """
        return self.advertise or tuple(e for e in self.listen if self._reachable(e))

    def _reachable(self, endpoint: Endpoint) -> bool:
        if endpoint.address.is_unspecified:
            return False
        return self.allow_private_endpoints or forbidden_network(endpoint.address) is None


@dataclass(frozen=True, slots=True)
class RoleSettings(Settings):
    """[roles]: what this node does for other nodes."""

    relay: bool = setting(
        True,
        FLAG,
        "Relay circuits of other nodes from link to link.",
    )
    exit: bool = setting(
        False,
        FLAG,
        "Forward packets of circuits to their destinations, which then see the address of this "
        "host. Before you turn it on, consider that you may be held responsible for that traffic.",
    )


@dataclass(frozen=True, slots=True)
class ExitSettings(Settings):
    """[exit]: where circuits may leave, if this node is an exit."""

    policy: tuple[ExitRule, ...] = setting(
        ["accept *:*"],
        EXIT_RULES,
        'Rules of the form "accept|reject ADDRESS[/LENGTH]|*:PORT[-PORT]|*". The first rule that '
        "covers a destination decides; without one the destination is refused. The rules are part "
        "of the signed descriptor.",
    )
    allow_forbidden: tuple[IpNetwork, ...] = setting(
        [],
        FORBIDDEN_PREFIXES,
        "Prefixes of addresses that are not public (private, loopback, link-local, multicast, "
        "reserved and IANA's other special ones) that circuits may reach nevertheless, where "
        "policy accepts them.",
    )
    allow_own_links: bool = setting(
        False,
        FLAG,
        "Let circuits reach networks of this host's own site, also those with public addresses. "
        "These are networks to which the host is connected, and networks that it reaches by "
        "another router than that towards the outside. Prefixes in allow_forbidden can be reached "
        "in any case.",
    )
    max_connections_per_circuit: int = setting(
        4096,
        whole(0, 28_000),
        "Connections that one circuit may have through this exit at a time, of every protocol and "
        "for each IP version; 0 means no limit. An exit has 28,000 ports towards one "
        "server. It is at most an eighth of max_connections over one IP version, or 64 if "
        "that is more.",
    )
    max_connection_rate_per_s: int = setting(
        200,
        whole(0, 10_000, "connections per second"),
        "New connections that each circuit may begin per second; 0 means no limit. "
        "Ten times as many may begin at once.",
    )
    max_connections: int = setting(
        131_072,
        whole(0, 16_777_216),
        "Connections of all circuits together. It is never more than three "
        "quarters of what the kernel tracks (nf_conntrack_max), which is also what 0 means.",
    )
    inner_ipv4: ipaddress.IPv4Network = setting(
        "100.64.0.0/10",
        INNER_IPV4_POOL,
        "Prefix that this host does not use, from which each circuit is lent an IPv4 address.",
    )
    inner_ipv6: ipaddress.IPv6Network = setting(
        "fd69:6e6e:6572::/64",
        INNER_IPV6_POOL,
        "Prefix that this host does not use, from which each circuit is lent an IPv6 address.",
    )

    def check(self) -> None:
        """Check that the policy fits into a descriptor."""
        try:
            self.exit_policy()
        except Malformed as error:
            raise ValueError(f"{self._too_long()} and must fit into {MAX_RULES}") from error

    def _too_long(self) -> str:
        """Return the settings that make the policy too long, each with its number of entries."""
        rules = f"policy has {counted(len(self.policy), 'rule')}"
        if len(self.policy) > MAX_RULES or not self.allow_forbidden:
            return rules
        opened = f"allow_forbidden has {counted(len(self.allow_forbidden), 'prefix', 'prefixes')}"
        return opened if len(self.allow_forbidden) > MAX_RULES else f"{rules}, {opened},"

    def exit_policy(self, opened: tuple[IpNetwork, ...] = ()) -> ExitPolicy:
        """Return the policy that is signed and enforced; ``opened`` adds allowed prefixes."""
        more = tuple(network for network in opened if network not in self.allow_forbidden)
        return ExitPolicy(self.policy, self.allow_forbidden + more)


@dataclass(frozen=True, slots=True)
class SelectionSettings(Settings):
    """[selection]: how the Mix-nodes of a path are chosen, unless a request says otherwise."""

    strategy: str = setting("uniform", NAME, "Name of the path selection strategy.")
    hops: int = setting(
        3,
        whole(1, MAX_HOPS),
        "Number of Mix-nodes of a path, the exit included. With fewer than 3, one node or two that "
        "work together see both ends.",
    )


@dataclass(frozen=True, slots=True)
class PathSettings(Settings):
    """[paths]: which destinations are anonymised, and for how long."""

    permanent: tuple[IpNetwork, ...] = setting(
        [],
        DESTINATIONS,
        "Addresses and prefixes to which a path is opened at every start. They are blocked before "
        "the node joins, so that no packet reaches them outside of a circuit.",
    )
    remember: bool = setting(
        True,
        FLAG,
        "Keep open paths in the file paths.json (mode 0600) of state_dir, so that their "
        "destinations are blocked again after a reboot. If it is false, only the kernel remembers "
        "them, until a reboot, and without their parameters.",
    )
    both_versions: bool = setting(
        False,
        FLAG,
        "Block all IPv6 destinations except local addresses while a path to an IPv4 destination "
        "exists, and the reverse, unless a request says otherwise.",
    )


@dataclass(frozen=True, slots=True)
class TfcSettings(Settings):
    """[tfc]: what an observer of a link sees."""

    strategy: str = setting("none", NAME, "Name of the traffic flow confidentiality strategy.")


@dataclass(frozen=True, slots=True)
class ForwardingSettings(Settings):
    """[forwarding]: what is normalised at the source and checked at the exit."""

    rules: str = setting("standard", NAME, "Name of the anonymous forwarding rules.")


@dataclass(frozen=True, slots=True)
class IpsecSettings(Settings):
    """[ipsec]: the backend that encrypts packets, and its ESP suites."""

    backend: str = setting(
        "auto",
        NAME,
        'Name of the IPsec backend: "xfrm" (the Linux kernel, at most 4 hops), "userspace", or '
        '"auto": the kernel if it supports the configuration. overlay status shows the choice.',
    )
    link_suite: int = setting(
        "aes-256-gcm",
        ESP_SUITE,
        "ESP suite of the SAs between neighbours.",
    )
    esp_suite: int = setting(
        "aes-256-gcm", ESP_SUITE, "ESP suite of the onion SAs of circuits that this node opens."
    )
