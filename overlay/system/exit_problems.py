"""What keeps a host from being an exit over an IP version, and the command that mends it.

The node asks again whenever the host may have changed, and the doctor asks before the node starts,
so that both say the same.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from overlay.addresses import IpNetwork
from overlay.system.host_networks import NEIGHBOUR, RULE_SOURCE, UsedNetwork, used_networks
from overlay.system.kernel_settings import read_setting
from overlay.system.rtnetlink import Rtnetlink

__all__ = [
    "ExitProblem",
    "exit_problems",
    "forwarding_problem",
    "has_version",
    "outward_devices",
    "pool_problems",
    "route_problem",
    "used_pools",
    "version_problem",
]

Read = Callable[[str], str | None]

_OWN_DEVICES: Final = ("anon", "exit")
"""What the names of a node's own devices begin with: circuits' addresses are there."""

_FILTER_PROGRAMS: Final = {4: "iptables", 6: "ip6tables"}


@dataclass(frozen=True, slots=True)
class ExitProblem:
    """Why circuits cannot leave over an IP version.

    ``kind`` names no address, so it may stand in a log. ``cause`` is a clause without a capital,
    ``remedy`` one that begins with a verb.
    ``of_configuration`` tells that the configuration has to change, not the host.
    """

    version: int
    kind: str
    cause: str
    remedy: str
    of_configuration: bool = False

    def __str__(self) -> str:
        """Return both as one sentence."""
        return f"{self.cause}; {self.remedy}"


def has_version(version: int, device: str = "", read: Read = read_setting) -> bool:
    """Tell whether this host (and a device of it) speaks an IP version."""
    if version == 4:
        return True
    names = ["all", *([device] if device else [])]
    found = [read(f"net/ipv6/conf/{name}/disable_ipv6") for name in names]
    return found[0] is not None and "1" not in found


def exit_problems(pools: Sequence[IpNetwork]) -> list[ExitProblem]:
    """Return what keeps this host from being an exit for these pools, at most one each.

    Raises:
        BackendError: the kernel does not tell its routes.
    """
    used, names = used_networks(), dict(socket.if_nameindex())
    found = pool_problems(pools, used, names)
    wrong = {problem.version for problem in found}
    with Rtnetlink() as netlink:
        for pool in pools:
            version = pool.version
            if version not in wrong:
                problem = version_problem(version) or route_problem(
                    version, netlink.default_route_devices(version)
                )
                found += [problem] if problem is not None else []
    return found


def version_problem(version: int, read: Read = read_setting) -> ExitProblem | None:
    """Return why this host does not speak an IP version, or None."""
    if version == 4 or has_version(6, read=read):
        return None
    if read("net/ipv6/conf/all/disable_ipv6") is None:
        return ExitProblem(6, "no_ipv6", "this kernel has no IPv6", "use one that has")
    return ExitProblem(
        6,
        "no_ipv6",
        "IPv6 is switched off on this host",
        "switch it on with: sysctl -w net.ipv6.conf.all.disable_ipv6=0 "
        "net.ipv6.conf.default.disable_ipv6=0",
    )


def route_problem(version: int, outward: Sequence[str]) -> ExitProblem | None:
    """Return what it means that no device leads to the outside, or None if one does."""
    if outward:
        return None
    flag = "-6 " if version == 6 else ""
    return ExitProblem(
        version,
        "no_default_route",
        f"this host has no default route over IPv{version}",
        f"add one with: ip {flag}route add default via ROUTER",
    )


def pool_problems(
    pools: Iterable[IpNetwork], used: Iterable[UsedNetwork], names: dict[int, str]
) -> list[ExitProblem]:
    """Return which pools overlap what this host uses itself; ``names`` are devices by index.

    Neighbours do not count, because any host of a link adds one with a single ARP packet, which
    would end the exit. Nor do rules for packets from a pool, by which an operator leads circuits
    into a VPN.
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
    """Return the pools that this host uses itself, over other devices than those ``inside``.

    Raises:
        BackendError: the kernel does not tell.
    """
    names = dict(socket.if_nameindex())
    used = [each for each in used_networks() if names.get(each.device) not in inside]
    return tuple(pool for pool in pools if pool_problems([pool], used, names))


def outward_devices(netlink: Rtnetlink, pools: Iterable[IpNetwork]) -> tuple[str, ...]:
    """Return the devices of the default routes over the pools' IP versions.

    Raises:
        BackendError: the kernel does not tell.
    """
    devices = [d for pool in pools for d in netlink.default_route_devices(pool.version)]
    return tuple(dict.fromkeys(devices))


def forwarding_problem(pool: IpNetwork) -> ExitProblem:
    """Return what it means that this host does not forward a probe."""
    program = _FILTER_PROGRAMS[pool.version]
    return ExitProblem(
        pool.version,
        "not_forwarded",
        f"another packet filter of this host refuses to forward over IPv{pool.version}",
        f"let it pass with: {program} -I FORWARD -s {pool} -j ACCEPT; "
        f"{program} -I FORWARD -d {pool} -j ACCEPT (or the same in nft or your firewall)",
    )
