"""The destination guard: no packet to a protected destination leaves outside its circuit.

Two walls, both in the kernel, both standing when the node is gone:

*Routing.* A rule before ``main`` sends every packet without the node's own mark to a table
of ours. For each protected prefix D it holds ``unreachable D`` with a high metric, and, while
a circuit is open, ``D dev anon0 src VC`` with a low one. The TUN device takes the second one
along when the node dies; then the first one answers.

*Packet filter.* Routing can be gone around: a socket bound to a device (SO_BINDTODEVICE)
makes IPv4 assume that D is on that link, and IPv6 skip our table; a connected IPv6 socket
keeps the route that it had. So a filter drops, after routing, whatever goes to D through
another device than the circuit's. It also drops packets to VC from any other device, by which
a neighbour could find out which inner address this host holds (CVE-2019-14899). And from
the circuit's device it lets in nothing but answers, so that no exit can call on local services.
What leaves from VC to anywhere else is dropped: were it this host's own firewall that answers an
exit (REJECT), whoever the exit named as source would get that answer from here.

::

    unprotected ──protect──> protected ──carry──> carried
         ^                    │  ^  └── the node died: leftovers, found by protected()
         └──────release───────┘  └────uncarry────────┘

Where the kernel itself carries the circuits (``by_ipsec``), a packet meets the filter before it
is encapsulated, already under the name of the underlay's device. Then the filter lets out what
a policy will put into a tunnel, from the inner address alone, and lets in what came out of one.
It also normalises there, as far as a packet filter can (docs/decisions/0012). Packets that are cut
first (docs/decisions/0014) pass it twice: towards the fragmenting device, then with a policy.

The state is the kernel's alone: the filter is derived from the routes at each change, so all
calls are idempotent, and a new process takes over what a killed one left.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import replace
from typing import Final, Self

from overlay.addresses import InnerAddress, IpNetwork
from overlay.system.filter_choice import find_packet_filter
from overlay.system.fragmenting_device import REROUTE_MARK
from overlay.system.orphaned_sockets import abort_orphaned_sockets
from overlay.system.ownership import Ownership
from overlay.system.packet_filter import (
    LARGE_MARK,
    FilterTable,
    Hook,
    PacketFilter,
    Rule,
    Verdict,
)
from overlay.system.rtnetlink import MarkRule, Route, RouteKind, Rtnetlink

__all__ = ["GUARD_TABLE", "NODE_MARK", "DestinationGuard", "guard_filter", "ipsec_guard_filter"]

GUARD_TABLE: Final = 0x6D69
"""Number of the routing table; another node in the same namespace needs another one."""

NODE_MARK: Final = 0x6D69
"""Firewall mark of the node's own datagrams, which must reach peers also at protected places."""

_RULE_PREFERENCE: Final = 109
"""After ``local`` (0), before ``main`` (32766) and before common VPN programs' rules."""

_CARRY_METRIC: Final = 1
_UNREACHABLE_METRIC: Final = 0x7FFFFFFF


class DestinationGuard:
    """The guard of this network namespace; a context manager that leaves protection in place.

    Closing it only gives up the right to change the guard: what is protected stays so until
    :meth:`release`, by this process or a later one.
    """

    def __init__(
        self,
        *,
        table: int = GUARD_TABLE,
        mark: int = NODE_MARK,
        packet_filter: PacketFilter | None = None,
        by_ipsec: bool = False,
    ) -> None:
        """Take the guard of a table; ``by_ipsec`` if the kernel's IPsec carries the circuits.

        Raises:
            BackendError: another node has it, there is no permission, or no packet filter.
        """
        self._table = table
        self._mark = mark
        self._by_ipsec = by_ipsec
        self._filter_name = f"guard-{table}"
        self._filter = packet_filter or find_packet_filter()
        self._ownership = Ownership(
            self._filter_name, "stop it, or give this node another guard table in its settings"
        )
        try:
            self._routes = Rtnetlink()
        except BaseException:
            self._ownership.release()
            raise

    def protect(self, prefix: IpNetwork) -> None:
        """From the return on, packets to ``prefix`` leave through a circuit or not at all.

        Raises:
            BackendError: the kernel refused; the destination may then be blocked or open,
                and :meth:`release` cleans up.
        """
        self._routes.put_route(self._unreachable(prefix))
        self._routes.add_rule(self._rule(prefix.version))
        self._enforce()

    def carry(
        self,
        prefix: IpNetwork,
        device: str,
        source_address: InnerAddress,
        mtu: int,
        *,
        program: int | None = None,
    ) -> None:
        """Send packets to a protected prefix into ``device``.

        Args:
            prefix: a prefix that :meth:`protect` was called for.
            device: the source's TUN device; it must hold ``source_address``.
            source_address: the inner address (VC) that programs use unless they choose one.
            mtu: bytes of the largest packet that the circuit takes; TCP announces segments
                that fit.
            program: takes packets on that were cut to this MTU, if the device is the
                fragmenting one (``overlay.system.fragmenting_device``).

        Raises:
            ValueError: the prefix is not protected.
            BackendError: the kernel refused; the prefix remains protected.
        """
        if prefix not in self.protected():
            raise ValueError("a destination must be protected before it is carried.")
        route = replace(
            self._carry_route(prefix),
            device=device,
            source=ipaddress.ip_address(source_address),
            mtu=mtu,
            rerouted=program is not None,
        )
        self._routes.put_route(route, program)
        self._enforce()

    def uncarry(self, prefix: IpNetwork) -> None:
        """Stop sending packets to ``prefix`` into the circuit; it remains protected."""
        self._routes.delete_route(self._carry_route(prefix))
        self._enforce()

    def release(self, prefix: IpNetwork) -> None:
        """End the protection of ``prefix``; the last one takes rules and filter along.

        Connections that went through a circuit end with it, as far as this kernel can do it.
        """
        self._routes.delete_route(self._carry_route(prefix))
        abort_orphaned_sockets(prefix)
        # The filter goes first: killed in between, the node leaves what protected() finds.
        self._enforce(released=prefix)
        self._routes.delete_route(self._unreachable(prefix))
        self._remove_idle_rules()

    def protected(self) -> list[IpNetwork]:
        """Return the protected prefixes, also those that a killed process left."""
        return [r.destination for r in self._installed() if r.kind is RouteKind.UNREACHABLE]

    def close(self) -> None:
        """Give up the right to change the guard; harmless if repeated."""
        self._routes.close()
        self._ownership.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _installed(self) -> list[Route]:
        return self._routes.routes(self._table)

    def _enforce(self, released: IpNetwork | None = None) -> None:
        routes = [route for route in self._installed() if route.destination != released]
        if routes:
            rules_of = ipsec_guard_filter if self._by_ipsec else guard_filter
            self._filter.replace(rules_of(self._filter_name, self._mark, routes))
        else:
            self._filter.remove(self._filter_name)

    def _remove_idle_rules(self) -> None:
        needed = {route.destination.version for route in self._installed()}
        for version in {4, 6} - needed:
            if self._routes.has_rule(version, self._table):
                self._routes.delete_rule(self._rule(version))

    def _rule(self, version: int) -> MarkRule:
        return MarkRule(version, _RULE_PREFERENCE, self._mark, self._table, others=True)

    def _unreachable(self, prefix: IpNetwork) -> Route:
        return Route(prefix, RouteKind.UNREACHABLE, self._table, _UNREACHABLE_METRIC)

    def _carry_route(self, prefix: IpNetwork) -> Route:
        return Route(prefix, RouteKind.UNICAST, self._table, _CARRY_METRIC)


def guard_filter(name: str, mark: int, routes: list[Route]) -> FilterTable:
    """Return the filter that holds packets to the routes' destinations to their devices.

    The longest prefix is judged first and finally, as in routing, so that a circuit of its
    own for a part of another circuit's destination works.
    """
    carried = {r.destination: r for r in routes if r.kind is RouteKind.UNICAST and r.device}
    prefixes = sorted({r.destination for r in routes}, key=lambda p: (-p.prefixlen, str(p)))
    leaving = [
        Rule(hook=Hook.POSTROUTING, verdict=Verdict.ACCEPT, out_device="lo"),
        Rule(hook=Hook.POSTROUTING, verdict=Verdict.ACCEPT, has_mark=True),
    ]
    for prefix in prefixes:
        if prefix in carried:
            leaving.append(
                Rule(
                    hook=Hook.POSTROUTING,
                    verdict=Verdict.ACCEPT,
                    out_device=carried[prefix].device,
                    destination=prefix,
                )
            )
        leaving.append(Rule(hook=Hook.POSTROUTING, verdict=Verdict.DROP, destination=prefix))
    held = list(carried.values())
    leaving += _from_inner_addresses(held)
    arriving = (*_inner_address_rules(held), *_unasked_rules(held))
    return FilterTable(name, mark, (*arriving, *leaving))


def _unasked_rules(carried: list[Route]) -> tuple[Rule, ...]:
    """Let in through a circuit what answers this host alone.

    An exit may send what it likes, under any source address: were it let in, the exit could
    ask the services of this host, and know it by their banners and keys.
    """
    devices = dict.fromkeys(route.device for route in carried)
    return tuple(
        rule
        for device in devices
        for rule in (
            Rule(hook=Hook.INPUT, verdict=Verdict.ACCEPT, in_device=device, reply=True),
            Rule(hook=Hook.INPUT, verdict=Verdict.DROP, in_device=device),
        )
    )


def _from_inner_addresses(carried: list[Route]) -> Iterator[Rule]:
    """Drop what no rule before has let into a circuit."""
    for source in dict.fromkeys(r.source for r in carried if r.source is not None):
        yield Rule(hook=Hook.POSTROUTING, verdict=Verdict.DROP, source=ipaddress.ip_network(source))


def _inner_address_rules(carried: list[Route]) -> tuple[Rule, ...]:
    """Let packets to an inner address in from its circuit's device (or this host) alone."""
    holders = dict.fromkeys((r.source, r.device) for r in carried if r.source is not None)
    if not holders:
        return ()
    own = Rule(hook=Hook.PREROUTING, verdict=Verdict.ACCEPT, in_device="lo")
    others = (
        Rule(
            hook=Hook.PREROUTING,
            verdict=Verdict.DROP,
            not_in_device=device,
            destination=ipaddress.ip_network(source),
        )
        for source, device in holders
    )
    return (own, *others)


def ipsec_guard_filter(name: str, mark: int, routes: list[Route]) -> FilterTable:
    """Return the filter for circuits that the kernel's IPsec carries; see the module's text."""
    carried = {r.destination: r for r in routes if r.kind is RouteKind.UNICAST and r.device}
    prefixes = sorted({r.destination for r in routes}, key=lambda p: (-p.prefixlen, str(p)))
    held = [ipaddress.ip_network(r.source) for r in carried.values() if r.source is not None]
    inner = list(dict.fromkeys(held))
    fragmenting = dict.fromkeys(r.device for r in carried.values() if r.rerouted)
    leaving = [
        Rule(hook=Hook.POSTROUTING, verdict=Verdict.ACCEPT, out_device=each)
        for each in ("lo", *fragmenting)
    ]
    leaving += [
        Rule(hook=Hook.POSTROUTING, verdict=Verdict.DROP, source=each, ipsec_out=False)
        for each in inner
    ]
    leaving += [
        Rule(hook=Hook.POSTROUTING, verdict=Verdict.ACCEPT, has_mark=True),
        Rule(hook=Hook.POSTROUTING, verdict=Verdict.ACCEPT, mark=mark | LARGE_MARK),
    ]
    for prefix in prefixes:
        leaving += _into_circuit(carried.get(prefix))
        leaving.append(_REPLY_OF_AN_EXIT)
        leaving.append(Rule(hook=Hook.POSTROUTING, verdict=Verdict.DROP, destination=prefix))
    return FilterTable(name, mark, (*_out_of_circuits(inner), *leaving))


_REPLY_OF_AN_EXIT: Final = Rule(
    hook=Hook.POSTROUTING, verdict=Verdict.ACCEPT, version=4, mark=REROUTE_MARK, ipsec_out=True
)
"""One that was cut; on its first way through here it had the node's mark."""

_NORMALISATION: Final = (Verdict.HOP_LIMIT, Verdict.TRAFFIC_CLASS, Verdict.STRIP_TIMESTAMPS)


def _into_circuit(route: Route | None) -> list[Rule]:
    if route is None or route.source is None:
        return []
    return [
        Rule(
            hook=Hook.POSTROUTING,
            verdict=verdict,
            source=ipaddress.ip_network(route.source),
            destination=route.destination,
            ipsec_out=True,
        )
        for verdict in (*_NORMALISATION, Verdict.ACCEPT)
    ]


def _out_of_circuits(inner: list[IpNetwork]) -> list[Rule]:
    """Let packets to inner addresses in through IPsec alone, and only as answers."""
    if not inner:
        return []
    rules = [Rule(hook=Hook.PREROUTING, verdict=Verdict.ACCEPT, in_device="lo")]
    for own in inner:
        rules += [
            Rule(hook=Hook.PREROUTING, verdict=Verdict.DROP, destination=own, ipsec_in=False),
            Rule(
                hook=Hook.INPUT,
                verdict=Verdict.ACCEPT,
                destination=own,
                ipsec_in=True,
                reply=True,
            ),
            Rule(hook=Hook.INPUT, verdict=Verdict.DROP, destination=own, ipsec_in=True),
        ]
    return rules
