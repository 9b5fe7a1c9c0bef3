"""Find what keeps a host from being an exit over an IP version, and the command that fixes it.

The node checks whenever the host may have changed. The doctor command checks before the node
starts, with the same functions, so that both report the same.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from overlay.addresses import IpNetwork
from overlay.errors import BackendError
from overlay.system.foreign_filters import ForeignChain, foreign_chains
from overlay.system.host_networks import NEIGHBOUR, RULE_SOURCE, UsedNetwork, used_networks
from overlay.system.kernel_settings import read_setting
from overlay.system.uplinks import SAMPLES, Uplinks, find_uplinks

__all__ = [
    "TRACKING_FULL",
    "ExitProblem",
    "exit_problems",
    "forwarding_problem",
    "has_version",
    "host_problems",
    "pool_problems",
    "route_problem",
    "unknown_problem",
    "used_pools",
    "version_problem",
]

TRACKING_FULL: Final = "tracking_full"
"""The kind of problem of a host whose table of connections is full."""

Read = Callable[[str], str | None]

_OWN_DEVICES: Final = ("anon", "exit")
"""Prefixes of the names of a node's own devices, which have the addresses of circuits."""

_REFUSING_ROUTES: Final = frozenset((errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL))
"""Errors of a route lookup for the types unreachable, prohibit and blackhole."""

_TRACKED: Final = "net/netfilter/nf_conntrack_count"
_TRACKED_MAX: Final = "net/netfilter/nf_conntrack_max"


@dataclass(frozen=True, slots=True)
class ExitProblem:
    """The reason why circuits cannot leave over an IP version.

    Attributes:
        version: the IP version.
        kind: a word for the log; it contains no address.
        cause: a clause without a capital letter.
        remedy: a clause that begins with a verb.
        of_configuration: whether the configuration has to change, not the host.
    """

    version: int
    kind: str
    cause: str
    remedy: str
    of_configuration: bool = False

    def __str__(self) -> str:
        """Return cause and remedy as one sentence."""
        return f"{self.cause}; {self.remedy}"


def has_version(version: int, device: str = "", read: Read = read_setting) -> bool:
    """Tell whether this host, and the device if it is given, supports an IP version."""
    if version == 4:
        return True
    names = ["all", *([device] if device else [])]
    found = [read(f"net/ipv6/conf/{name}/disable_ipv6") for name in names]
    return found[0] is not None and "1" not in found


def host_problems(pools: Sequence[IpNetwork]) -> list[ExitProblem]:
    """Return what keeps this host from being an exit for these pools, apart from its routes.

    There is at most one problem per IP version.

    Raises:
        BackendError: the state of the host could not be read.
    """
    found = pool_problems(pools, used_networks(), dict(socket.if_nameindex()))
    wrong = {problem.version for problem in found}
    others = (version_problem(pool.version) for pool in pools if pool.version not in wrong)
    return [*found, *(each for each in others if each is not None)]


def exit_problems(pools: Sequence[IpNetwork]) -> list[ExitProblem]:
    """Return what keeps this host from being an exit for these pools, at most one problem each.

    The routes of this host's own packets are examined, because there is no exit yet.

    Raises:
        BackendError: the state of the host could not be read.
    """
    found = host_problems(pools)
    wrong = {problem.version for problem in found}
    others = (
        version_problem(pool.version, "default")
        or route_problem(pool.version, find_uplinks(pool.version))
        for pool in pools
        if pool.version not in wrong
    )
    return [*found, *(each for each in others if each is not None)]


def version_problem(
    version: int, device: str = "", read: Read = read_setting
) -> ExitProblem | None:
    """Return why this host, or the device, does not support an IP version; else None.

    The device "default" stands for devices that will be created.
    """
    if version == 4 or has_version(6, device, read):
        return None
    if read("net/ipv6/conf/all/disable_ipv6") is None:
        return ExitProblem(6, "no_ipv6", "this kernel has no IPv6", "use one that has")
    names = dict.fromkeys(("all", "default", device or "default"))
    commands = " ".join(f"net.ipv6.conf.{name}.disable_ipv6=0" for name in names)
    return ExitProblem(
        6,
        "no_ipv6",
        "IPv6 is switched off on this host",
        f"switch it on with: sysctl -w {commands}",
    )


def route_problem(version: int, ways: Uplinks, question: str = "") -> ExitProblem | None:
    """Return the problem if there is no uplink, or None if there is one.

    ``question`` is the command for the user that shows the route of a circuit's packet.
    """
    if ways.ways:
        return None
    flag = "-6 " if version == 6 else ""
    if ways.error in _REFUSING_ROUTES:
        shown = question or f"ip {flag}route get {SAMPLES[version][0]}"
        return ExitProblem(
            version,
            "route_refuses",
            f"a route or a routing rule of this host refuses packets to the outside over "
            f"IPv{version}",
            f"find it with: {shown}; ip {flag}rule",
        )
    return ExitProblem(
        version,
        "no_default_route",
        f"this host has no default route over IPv{version}",
        f"add one with: ip {flag}route add default via ROUTER",
    )


def pool_problems(
    pools: Iterable[IpNetwork], used: Iterable[UsedNetwork], names: dict[int, str]
) -> list[ExitProblem]:
    """Return a problem for each pool that overlaps a network which this host uses itself.

    Neighbours do not count, because any host on a link could end the exit with one ARP packet.
    Routing rules for packets from a pool do not count either, because an operator may use them to
    send circuits into a VPN. ``names`` are the names of devices by index.
    """
    found = []
    for pool in pools:
        for each in used:
            name = names.get(each.device, "")
            if each.what in (NEIGHBOUR, RULE_SOURCE):
                continue
            if each.network.version != pool.version or not pool.overlaps(each.network):
                continue
            if not name.startswith(_OWN_DEVICES):
                found.append(_overlap(pool, each, name))
                break
    return found


def _overlap(pool: IpNetwork, used: UsedNetwork, device: str) -> ExitProblem:
    where = f" on {device}" if device else ""
    return ExitProblem(
        pool.version,
        "pool_in_use",
        f'[exit] inner_ipv{pool.version} = "{pool}" overlaps {used.network}, '
        f"{used.what} of this host{where}",
        "write another private prefix that this host does not use",
        of_configuration=True,
    )


def used_pools(pools: Iterable[IpNetwork], inside: Collection[str]) -> tuple[IpNetwork, ...]:
    """Return the pools that this host uses itself, except on the devices ``inside``.

    Raises:
        BackendError: the state of the host could not be read.
    """
    names = dict(socket.if_nameindex())
    used = [each for each in used_networks() if names.get(each.device) not in inside]
    return tuple(pool for pool in pools if pool_problems([pool], used, names))


def forwarding_problem(
    pool: IpNetwork,
    device: str = "exit0",
    *,
    read: Read = read_setting,
    chains: Callable[[int], list[ForeignChain]] = foreign_chains,
) -> ExitProblem:
    """Return the most probable reason why this host does not forward the probe of a pool."""
    version = pool.version
    if _tracking_is_full(read):
        return ExitProblem(
            version,
            TRACKING_FULL,
            "the table of connections of this host is full, so that it drops new ones",
            f"make it larger with: sysctl -w {_TRACKED_MAX.replace('/', '.')}="
            f"{2 * int(read(_TRACKED_MAX) or 65536)}",
        )
    found = chains(version)
    commands = [command for chain in found for command in chain.commands(pool, device)]
    named = f" ({', '.join(chain.name for chain in found)})" if found else ""
    if not commands:
        program = "iptables" if version == 4 else "ip6tables"
        commands = [f"{program} -I FORWARD -{way} {pool} -j ACCEPT" for way in "sd"]
    return ExitProblem(
        version,
        "not_forwarded",
        f"another packet filter of this host refuses to forward over IPv{version}{named}",
        f"let it pass with: {'; '.join(commands)}",
    )


def unknown_problem(pool: IpNetwork, error: BackendError) -> ExitProblem:
    """Return the problem of an exit whose state could not be read or repaired."""
    return ExitProblem(
        pool.version,
        "not_examined",
        f"the state of this exit is unknown over IPv{pool.version} ({str(error).rstrip('.')})",
        "fix this error; the node tries again every few seconds",
    )


def _tracking_is_full(read: Read) -> bool:
    count, most = read(_TRACKED) or "", read(_TRACKED_MAX) or ""
    return count.isdecimal() and most.isdecimal() and 0 < int(most) <= int(count)
