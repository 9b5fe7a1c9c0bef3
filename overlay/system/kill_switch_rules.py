"""The packet filter of the kill switch, as a pure function of its routes.

::

    outside, in the clear
      ──> from a protected prefix, or an ICMP error     mark: answers to it may leave in the clear
      ──> from or to an inner address, or a stand-in    mark: this host does not have the address
      ──> ICMP error about a circuit's connections                                         drop
      ──> UDP from a protected prefix, delivered        from its stand-in, for local programs
    a circuit ──> reply to what this host began                                            accept
              ──> anything else                                                            drop
    this host ──> answer to a stand-in                  mark; the translation is undone
              ──> marked, and not from an inner address                                    accept
              ──> to a protected prefix, into its circuit                                  accept
              ──> to a protected prefix, or from an inner address                          drop

Packets out of a circuit are judged before destination addresses are translated. Otherwise the
published port of a container would lead them past the filter.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from overlay.addresses import OVERLAY_NETWORKS, IpAddress, IpNetwork
from overlay.system.fragmenting_device import REROUTE_MARK
from overlay.system.marks import ANSWER_MARK, BRIDGED_MARK, FOREIGN_MARK, LARGE_MARK, STAND_INS
from overlay.system.normalisation import normalising_rules
from overlay.system.packet_filter import FilterTable, Hook, Rule, Verdict
from overlay.system.rtnetlink import Route, RouteKind

__all__ = ["ipsec_kill_switch_filter", "kill_switch_filter"]

_TCP: Final = 6
_UDP: Final = 17
_ICMP: Final = {4: 1, 6: 58}
_LAST_PORT: Final = 65_535

_ERRORS: Final = {4: (3, 4, 5, 11, 12), 6: (1, 2, 3, 4)}
"""By IP version: the ICMP types that report about another packet (RFC 792, RFC 4443)."""
_UNREACHABLE: Final = {4: 3, 6: 1}
_REDIRECT: Final = 137
_NEIGHBOUR_TYPES: Final = (135, 136)
"""ICMPv6 types of neighbour discovery (RFC 4861); no router forwards them."""


# Large: one list of rules, whose order matters.
def kill_switch_filter(
    name: str,
    mark: int,
    routes: Sequence[Route],
    *,
    devices: Sequence[str] = (),
    expected: Sequence[IpAddress] = (),
    own_ports: Sequence[int] = (),
    without_default: Collection[int] = (),
    outside: Collection[str] = (),
) -> FilterTable:
    """Return the filter that permits packets to protected prefixes on their circuits' devices only.

    The longest matching prefix decides, as in routing. So a part of one circuit's destination can
    have a circuit of its own.

    Args:
        name: name of the table.
        mark: firewall mark of the node's own datagrams.
        routes: the routes of the kill switch's routing table.
        devices: devices of further circuits.
        expected: inner addresses that this host will get soon.
        own_ports: UDP ports of the node itself.
        without_default: IP versions for which this host has no default route.
        outside: devices of default routes; packets that leave there are not for hosts behind
            this one.
    """
    protected = _protected(routes, expected)
    held = (each.device for each in protected.carried.values() if each.device is not None)
    circuits = list(dict.fromkeys((*devices, *held)))
    early = [_from_this_host(Hook.EARLY), *(_from_device(Hook.EARLY, each) for each in circuits)]
    arriving = [_from_this_host(Hook.PREROUTING)]
    for device in circuits:
        arriving += [
            Rule(hook=Hook.PREROUTING, verdict=Verdict.ACCEPT, in_device=device, reply=True),
            Rule(hook=Hook.PREROUTING, verdict=Verdict.DROP, in_device=device),
        ]
    arriving += _not_held(protected)
    delivered = [_from_device(Hook.INPUT, each) for each in ("lo", *circuits)]
    delivered += [
        Rule(hook=Hook.INPUT, verdict=Verdict.DROP, destination=each) for each in protected.inner
    ]
    leaving = [Rule(hook=Hook.POSTROUTING, verdict=Verdict.ACCEPT, out_device="lo")]
    leaving += _leaving_in_the_clear(protected)
    for prefix in protected.prefixes:
        if prefix in protected.carried:
            leaving.append(
                Rule(
                    hook=Hook.POSTROUTING,
                    verdict=Verdict.ACCEPT,
                    out_device=protected.carried[prefix].device,
                    # A packet from another source must not pass. Connection tracking would record
                    # its connection, and the destination could then not begin the same one.
                    source=_inner_network(protected.carried[prefix]),
                    destination=prefix,
                )
            )
        leaving.append(Rule(hook=Hook.POSTROUTING, verdict=Verdict.DROP, destination=prefix))
    leaving += [
        Rule(hook=Hook.POSTROUTING, verdict=Verdict.DROP, source=each) for each in protected.inner
    ]
    leaving += _to_inner_addresses(protected)
    early += _unanswered(without_default)
    answers = _answers(protected, early, arriving, own_ports)
    answers += _passed_on(protected, outside)
    return FilterTable(name, mark, (*answers, *delivered, *leaving))


def _inner_network(route: Route) -> IpNetwork | None:
    return None if route.source is None else ipaddress.ip_network(route.source)


# Large: one list of rules, whose order matters.
def ipsec_kill_switch_filter(
    name: str,
    mark: int,
    routes: Sequence[Route],
    *,
    devices: Sequence[str] = (),  # noqa: ARG001 - the same signature; IPsec knows no devices
    expected: Sequence[IpAddress] = (),
    own_ports: Sequence[int] = (),
    without_default: Collection[int] = (),
    outside: Collection[str] = (),
) -> FilterTable:
    """Return the filter for circuits in the kernel's IPsec; see :func:`kill_switch_filter`.

    A packet passes this filter before it is encapsulated, and its output device is already that
    of the underlay. So outgoing packets are judged by whether a policy will encapsulate them, and
    incoming packets by whether they came out of a tunnel.
    """
    protected = _protected(routes, expected)
    early = [
        _from_this_host(Hook.EARLY),
        # The outer packet of a link from a protected peer got the mark. The inner packet inherits
        # it but is not in the clear.
        Rule(hook=Hook.EARLY, verdict=Verdict.UNMARK, mark=ANSWER_MARK, ipsec_in=True),
        Rule(hook=Hook.EARLY, verdict=Verdict.ACCEPT, ipsec_in=True),
    ]
    fragmenting = dict.fromkeys(r.device for r in protected.carried.values() if r.rerouted)
    leaving = [
        Rule(hook=Hook.POSTROUTING, verdict=Verdict.ACCEPT, out_device=each)
        for each in ("lo", *fragmenting)
    ]
    leaving.append(Rule(hook=Hook.POSTROUTING, verdict=Verdict.ACCEPT, mark=ANSWER_MARK))
    leaving += [
        Rule(hook=Hook.POSTROUTING, verdict=Verdict.DROP, source=each, ipsec_out=False)
        for each in protected.inner
    ]
    leaving += _to_inner_addresses(protected, ipsec_out=False)
    leaving += _leaving_in_the_clear(protected)
    leaving.append(
        Rule(hook=Hook.POSTROUTING, verdict=Verdict.ACCEPT, mark=mark | LARGE_MARK),
    )
    for prefix in protected.prefixes:
        leaving += _into_circuit(protected.carried.get(prefix))
        leaving += _REPLIES_OF_AN_EXIT
        leaving.append(Rule(hook=Hook.POSTROUTING, verdict=Verdict.DROP, destination=prefix))
    arriving = [_from_this_host(Hook.PREROUTING), *_out_of_ipsec(), *_not_held(protected)]
    delivered = [_from_this_host(Hook.INPUT)]
    for each in protected.inner:
        delivered += [
            Rule(hook=Hook.INPUT, verdict=Verdict.DROP, destination=each, ipsec_in=False),
            # A packet with a forged inner address as source must not be forwarded into a circuit.
            Rule(
                hook=Hook.FORWARD,
                verdict=Verdict.DROP,
                source=each,
                mark=ANSWER_MARK,
                ipsec_out=True,
            ),
        ]
    early += _unanswered(without_default)
    answers = _answers(protected, early, arriving, own_ports)
    answers += _passed_on(protected, outside)
    return FilterTable(name, mark, (*answers, *delivered, *leaving, *_not_carried(protected)))


def _not_carried(protected: _Protected) -> Iterator[Rule]:
    """Refuse protocols that circuits do not carry, before IPsec; these are the last rules."""
    for each in protected.inner:
        for protocol in (_TCP, _UDP, _ICMP[each.version]):
            yield Rule(hook=Hook.OUTPUT, verdict=Verdict.ACCEPT, source=each, protocol=protocol)
        yield Rule(hook=Hook.OUTPUT, verdict=Verdict.REFUSE, source=each)


@dataclass(frozen=True, slots=True)
class _Protected:
    """Protected prefixes (longest first), the routes of circuits, and the inner addresses."""

    prefixes: list[IpNetwork]
    carried: dict[IpNetwork, Route]
    inner: list[IpNetwork]

    @property
    def versions(self) -> list[int]:
        return sorted({prefix.version for prefix in self.prefixes})

    @property
    def stand_ins(self) -> list[IpNetwork]:
        return [ipaddress.ip_network(STAND_INS[version]) for version in self.versions]


def _protected(routes: Sequence[Route], expected: Sequence[IpAddress]) -> _Protected:
    carried = {r.destination: r for r in routes if r.kind is RouteKind.UNICAST and r.device}
    prefixes = sorted({r.destination for r in routes}, key=lambda p: (-p.prefixlen, str(p)))
    held = (*(r.source for r in carried.values() if r.source is not None), *expected)
    return _Protected(prefixes, carried, [ipaddress.ip_network(a) for a in dict.fromkeys(held)])


def _to_inner_addresses(protected: _Protected, *, ipsec_out: bool | None = None) -> Iterator[Rule]:
    """Drop ICMP errors of this host about its own packets from an address that it lost."""
    for each in protected.inner:
        yield Rule(
            hook=Hook.POSTROUTING, verdict=Verdict.DROP, destination=each, ipsec_out=ipsec_out
        )


def _from_this_host(hook: Hook) -> Rule:
    return _from_device(hook, "lo")


def _from_device(hook: Hook, device: str) -> Rule:
    return Rule(hook=hook, verdict=Verdict.ACCEPT, in_device=device)


# -- traffic that other hosts begin ------------------------------------------------------


def _answers(
    protected: _Protected, early: list[Rule], arriving: list[Rule], own_ports: Sequence[int]
) -> list[Rule]:
    """Return the rules for packets in the clear, after ``early`` and ``arriving`` for the others.

    The kernel copies the mark of a packet to its own answers (ICMP, RST) and to accepted TCP
    connections (fwmark_reflect, tcp_fwmark_accept). Answers of UDP programs have no mark, so these
    programs see the stand-in in place of the protected host. Packets of a UDP program to the
    protected host itself are this host's own traffic, even if that host sent something before.
    """
    rules = [
        # With br_netfilter, Linux passes bridged frames to the filter as if they were forwarded.
        Rule(hook=Hook.FORWARD, verdict=Verdict.BRIDGED),
        *(
            Rule(hook=hook, verdict=Verdict.ACCEPT, mark=BRIDGED_MARK)
            for hook in (Hook.EARLY, Hook.PREROUTING, Hook.POSTROUTING)
        ),
        *early,
        *_sent_through(protected),
        *(
            Rule(hook=Hook.EARLY, verdict=Verdict.ANSWER, source=each)
            for each in (*protected.prefixes, *protected.inner, *protected.stand_ins)
        ),
        *(
            Rule(hook=Hook.EARLY, verdict=Verdict.ANSWER, destination=each)
            for each in protected.inner
        ),
        *(
            _icmp(Hook.EARLY, Verdict.ANSWER, version, icmp_type)
            for version, icmp_type in _error_types(protected, with_redirects=True)
        ),
        *arriving,
        *_about_inner_addresses(protected),
        # Such an error could name a UDP service of this host and lower a circuit's packet size.
        *(
            _icmp(Hook.PREROUTING, Verdict.DROP, version, icmp_type, unknown=True, local=True)
            for version, icmp_type in _error_types(protected)
        ),
    ]
    # Mark only replies. If connection tracking has forgotten the connection, the stand-in is not
    # translated, and a router would see it. Such packets get no mark and are dropped.
    rules += [
        Rule(hook=hook, verdict=Verdict.ANSWER, destination=stand_in, reply=True)
        for stand_in in protected.stand_ins
        for hook in (Hook.PREROUTING, Hook.OUTPUT)
    ]
    for prefix in protected.prefixes:
        rules += _answers_of_others(prefix)
        rules += _standing_in_for_others(prefix)
    for prefix in (*protected.prefixes, *protected.inner):
        rules += _standing_in(prefix, own_ports)
    rules += [
        Rule(hook=Hook.OUTPUT, verdict=Verdict.DROP, source=each, mark=ANSWER_MARK)
        for each in protected.inner
    ]
    return rules


def _sent_through(protected: _Protected) -> Iterator[Rule]:
    """Suppress "unreachable" errors about packets of other hosts to a protected host.

    The kill switch's table has an unreachable route while no circuit carries the prefix. For IPv6,
    Linux reports this even to neighbours for which this host does not forward.
    """
    for prefix in protected.prefixes:
        yield Rule(hook=Hook.EARLY, verdict=Verdict.FOREIGN, destination=prefix)
    # A protected prefix may contain addresses of this host; packets to these are not forwarded.
    yield Rule(hook=Hook.EARLY, verdict=Verdict.UNMARK, mark=FOREIGN_MARK, local=True)
    for version in protected.versions:
        unreachable = _icmp(Hook.OUTPUT, Verdict.DROP, version, _UNREACHABLE[version])
        yield replace(unreachable, mark=FOREIGN_MARK)


def _passed_on(protected: _Protected, outside: Collection[str]) -> Iterator[Rule]:
    """Keep the stand-in off the outside link: only hosts behind this one may see it."""
    for device in outside:
        for prefix in protected.prefixes:
            passed = Rule(
                hook=Hook.FORWARD,
                verdict=Verdict.PASS_ON,
                source=prefix,
                out_device=device,
                mark=ANSWER_MARK,
            )
            yield passed
            # A published port may lead to a service outside, which answers through this host. So
            # its packets keep the mark for answers and get the stand-in.
            yield replace(passed, verdict=Verdict.ANSWER, mark=BRIDGED_MARK, redirected=True)


def _unanswered(versions: Collection[int]) -> Iterator[Rule]:
    """Drop packets of other hosts from a stand-in; the route to it exists only for answers."""
    for version in versions:
        stand_in = ipaddress.ip_network(STAND_INS[version])
        yield Rule(hook=Hook.EARLY, verdict=Verdict.DROP, source=stand_in)


def _error_types(
    protected: _Protected, *, with_redirects: bool = False
) -> Iterator[tuple[int, int]]:
    for version in protected.versions:
        for icmp_type in _ERRORS[version]:
            yield version, icmp_type
        # Connection tracking ignores IPv6 redirects, so a rule about unknown connections would
        # match every redirect.
        if version == 6 and with_redirects:
            yield version, _REDIRECT


def _icmp(
    hook: Hook,
    verdict: Verdict,
    version: int,
    icmp_type: int,
    *,
    unknown: bool = False,
    local: bool = False,
) -> Rule:
    return Rule(
        hook=hook,
        verdict=verdict,
        version=version,
        protocol=_ICMP[version],
        icmp_type=icmp_type,
        unknown=unknown,
        local=local,
    )


def _not_held(protected: _Protected) -> Iterator[Rule]:
    """Mark and accept packets in the clear to an inner address, as if this host lacked it.

    Dropping them would show a neighbour which inner address this host holds (CVE-2019-14899).
    Instead, a routing rule for marked packets skips the table with the address
    (:class:`~overlay.system.hidden_addresses.HiddenAddresses`). So a router forwards them, or
    answers "time exceeded", as for any address that it does not have. If that rule is missing, the
    input hook drops them.
    """
    for inner in protected.inner:
        # Set the mark again, because other programs overwrite marks (wg-quick restores one for
        # all UDP).
        yield Rule(hook=Hook.PREROUTING, verdict=Verdict.ANSWER, destination=inner)
        yield Rule(hook=Hook.PREROUTING, verdict=Verdict.ACCEPT, destination=inner)


def _about_inner_addresses(protected: _Protected) -> Iterator[Rule]:
    """Drop ICMP errors in the clear about a circuit's connections.

    An exit could otherwise use such errors to find out which host holds the address that it lent.
    """
    for inner in protected.inner:
        for version, icmp_type in _error_types(protected):
            if version == inner.version:
                dropped = _icmp(Hook.PREROUTING, Verdict.DROP, version, icmp_type)
                yield replace(dropped, reply_destination=inner)


def _answers_of_others(prefix: IpNetwork) -> Iterator[Rule]:
    """Mark echo replies of hosts behind this one to the prefix.

    For ICMP, only a request creates a connection in connection tracking, so the direction is
    certain. For TCP and UDP, tracking may begin in the middle of a connection. The sender of the
    first tracked packet then counts as the one that began it. A rule like this one would let an
    older connection continue in the clear. So these hosts see the stand-in over TCP and UDP.
    """
    yield Rule(
        hook=Hook.PREROUTING,
        verdict=Verdict.ANSWER,
        destination=prefix,
        protocol=_ICMP[prefix.version],
        reply=True,
    )


def _standing_in(prefix: IpNetwork, own_ports: Sequence[int]) -> Iterator[Rule]:
    """Show the stand-in to UDP programs of this host, except the node itself."""
    for ports in _other_ports(own_ports):
        yield Rule(
            hook=Hook.INPUT,
            verdict=Verdict.STAND_IN,
            source=prefix,
            # No condition on the mark, because other programs overwrite it (wg-quick restores one
            # for all UDP). Only replies come here from a circuit, and they are not translated.
            protocol=_UDP,
            ports=ports,
        )


def _standing_in_for_others(prefix: IpNetwork) -> Iterator[Rule]:
    """Show the stand-in to all hosts behind this one."""
    for protocol in (_TCP, _UDP):
        yield Rule(
            hook=Hook.POSTROUTING,
            verdict=Verdict.STAND_IN,
            source=prefix,
            mark=ANSWER_MARK,
            protocol=protocol,
        )


def _other_ports(own_ports: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the ranges of ports between those of the node."""
    first = 0
    for port in sorted(set(own_ports) - {0}):
        if first < port:
            yield first, port - 1
        first = port + 1
    if first <= _LAST_PORT:
        yield first, _LAST_PORT


def _leaving_in_the_clear(protected: _Protected) -> Iterator[Rule]:
    """Accept the node's own datagrams, answers, and neighbour discovery."""
    hook = Hook.POSTROUTING
    yield Rule(hook=hook, verdict=Verdict.ACCEPT, has_mark=True)
    yield Rule(hook=hook, verdict=Verdict.ACCEPT, mark=ANSWER_MARK)
    for icmp_type in _NEIGHBOUR_TYPES if 6 in protected.versions else ():
        yield _icmp(hook, Verdict.ACCEPT, 6, icmp_type)
    for stand_in in protected.stand_ins:
        yield Rule(hook=hook, verdict=Verdict.DROP, destination=stand_in)


# -- circuits in the kernel's IPsec ------------------------------------------------------


_REPLIES_OF_AN_EXIT: Final = tuple(
    Rule(hook=Hook.POSTROUTING, verdict=Verdict.ACCEPT, version=4, mark=mark, ipsec_out=True)
    for mark in (REROUTE_MARK, REROUTE_MARK | LARGE_MARK)
)
"""Replies that were fragmented; on their first pass through this hook they had the node's mark."""


def _into_circuit(route: Route | None) -> list[Rule]:
    if route is None or route.source is None:
        return []
    into = Rule(
        hook=Hook.POSTROUTING,
        verdict=Verdict.ACCEPT,
        source=ipaddress.ip_network(route.source),
        destination=route.destination,
        ipsec_out=True,
    )
    stripped = replace(into, verdict=Verdict.STRIP_TIMESTAMPS)
    return [*normalising_rules(into), stripped, into]


def _out_of_ipsec() -> Iterator[Rule]:
    """Accept out of IPsec the node's own packets, forwarded packets, and replies.

    These rules name no inner address, so they can be installed before this host has one.
    """
    hook = Hook.PREROUTING
    for network in OVERLAY_NETWORKS:
        yield Rule(hook=hook, verdict=Verdict.ACCEPT, destination=network, ipsec_in=True)
    yield Rule(hook=hook, verdict=Verdict.ACCEPT, ipsec_in=True, reply=True)
    yield Rule(hook=hook, verdict=Verdict.DROP, ipsec_in=True, local=True)
    # Another program may have translated the destination before this hook (nftables allows any
    # priority). Then the packet is for a service behind this host and no longer for this host.
    yield Rule(hook=hook, verdict=Verdict.DROP, ipsec_in=True, redirected=True)
    yield Rule(hook=hook, verdict=Verdict.ACCEPT, ipsec_in=True)
