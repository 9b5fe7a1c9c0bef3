"""Compile the kill switch for traffic control: which packets each device may send.

D is a protected prefix and VC the inner address of its circuit. Each program judges a packet
as follows, where the first match decides::

    mark of the node, or of an answer ──> pass
    to D, and this device carries D ──> pass            longest prefix first, as in routing
    to D ──> drop
    from VC or to it, and this is not VC's device ──> drop
    ARP request for D, and D is not on this device's link ──> drop

The last rule concerns sockets that are bound to a device. For these, IPv4 assumes that every
destination is on the link. So an ARP request would disclose D before the packet itself is dropped.
If D is on the link, ARP is permitted, because the node and answers to D need it. A packet to VC is
an ICMP error of this host about one of its own packets, sent after the address was removed.
"""

from __future__ import annotations

import bisect
import functools
import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from overlay.addresses import IpAddress, IpNetwork
from overlay.system.egress_program import EgressRule, Field, compile_egress
from overlay.system.marks import CLEAR_MASK
from overlay.system.rtnetlink import Route, RouteKind
from overlay.system.source_routing import source_routing_program

__all__ = ["kill_switch_programs"]


_RULES_IN_PROGRAM: Final = 256
"""One rule takes at most 13 instructions, so this many fit into a program of 4,096.

Further rules go into further programs. A packet that one program passes is judged by the next one.
"""


def kill_switch_programs(
    mark: int,
    routes: Iterable[Route],
    on_link: Mapping[str, Iterable[IpNetwork]],
    former: Iterable[IpAddress] = (),
) -> Callable[[str], tuple[bytes, ...]]:
    """Return a function that maps the name of a device to its programs.

    Args:
        mark: firewall mark whose low 16 bits permit packets to leave in the clear.
        routes: the routes that :class:`~overlay.system.kill_switch.KillSwitch` wants.
        on_link: the IPv4 networks on the link of each device, by its name.
        former: inner addresses that this host held until recently.
    """
    given = list(routes)
    carried = {r.destination: r for r in given if r.kind is RouteKind.UNICAST}
    prefixes = sorted({r.destination for r in given}, key=lambda p: (-p.prefixlen, str(p)))
    holders = dict.fromkeys((r.source, r.device) for r in carried.values() if r.source is not None)
    held = {source for source, _ in holders}
    holders |= {(source, None): None for source in former if source not in held}
    marks = [(mark & CLEAR_MASK, CLEAR_MASK)]
    source_routing = (source_routing_program(marks),) if given else ()
    asked_for = _Ranges(prefix for prefix in prefixes if prefix.version == 4)

    @functools.cache
    def programs(
        carries: frozenset[IpNetwork], holds: frozenset[IpAddress], link: tuple[IpNetwork, ...]
    ) -> tuple[bytes, ...]:
        to = [EgressRule(prefix, drop=prefix not in carries) for prefix in prefixes]
        of = [
            EgressRule(ipaddress.ip_network(source), field=field)
            for source, _ in holders
            if source not in holds
            for field in (Field.SOURCE, Field.DESTINATION)
        ]
        asked = [EgressRule(network, drop=False, field=Field.ARP_TARGET) for network in link]
        asked += [EgressRule(p, field=Field.ARP_TARGET) for p in prefixes if p.version == 4]
        pieces = [*_pieces(to), *_pieces(of), *_pieces(asked)]
        judging = (compile_egress(rules, marks) for rules in pieces)
        return (*source_routing, *judging)

    def programs_of(device: str) -> tuple[bytes, ...]:
        return programs(
            frozenset(prefix for prefix, route in carried.items() if route.device == device),
            frozenset(source for source, holder in holders if holder == device),
            asked_for.overlapped(on_link.get(device, ())),
        )

    return programs_of


class _Ranges:
    """IPv4 prefixes as sorted ranges for binary search; a link may have thousands of networks."""

    def __init__(self, prefixes: Iterable[IpNetwork]) -> None:
        merged = sorted(ipaddress.collapse_addresses(list(prefixes)))  # type: ignore[type-var]  # of one version
        self._begins = [int(each.network_address) for each in merged]
        self._ends = [int(each.broadcast_address) for each in merged]

    def overlapped(self, networks: Iterable[IpNetwork]) -> tuple[IpNetwork, ...]:
        """Return the networks that overlap a prefix, sorted by prefix length and address."""
        found = [
            (network.prefixlen, int(network.network_address), network)
            for network in networks
            if self._overlap(network)
        ]
        return tuple(network for _, _, network in sorted(found, key=lambda each: each[:2]))

    def _overlap(self, network: IpNetwork) -> bool:
        at = bisect.bisect_right(self._begins, int(network.broadcast_address)) - 1
        return at >= 0 and self._ends[at] >= int(network.network_address)


def _pieces(rules: list[EgressRule]) -> Iterator[list[EgressRule]]:
    for start in range(0, len(rules), _RULES_IN_PROGRAM):
        yield rules[start : start + _RULES_IN_PROGRAM]
