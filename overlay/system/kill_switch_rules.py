"""The packet filter of the destination guard, as a pure function of its routes.

::

    outside, in the clear
      ──> from a protected prefix, or an ICMP error     mark: answers to it may leave in the clear
      ──> from or to an inner address, or a stand-in    mark: this host does not have the address
      ──> about a circuit's connections                                                    drop
      ──> UDP from a protected prefix, delivered        from its stand-in, for local programs
    a circuit ──> reply to what this host began                                            accept
              ──> anything else                                                            drop
    this host ──> answer to a stand-in                  mark; the translation is undone
              ──> marked, and not from an inner address                                    accept
              ──> to a protected prefix, into its circuit                                  accept
              ──> to a protected prefix, or from an inner address                          drop

What comes out of a circuit is judged before destination addresses are translated, because a
published port of a container would otherwise lead it past the filter.
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

__all__ = ["guard_filter", "ipsec_guard_filter"]

_TCP: Final = 6
_UDP: Final = 17
_ICMP: Final = {4: 1, 6: 58}
_LAST_PORT: Final = 65_535

_ERRORS: Final = {4: (3, 4, 5, 11, 12), 6: (1, 2, 3, 4)}
"""ICMP types that speak of another packet (RFC 792, RFC 4443)."""
_UNREACHABLE: Final = {4: 3, 6: 1}
_REDIRECT: Final = 137
_NEIGHBOUR_TYPES: Final = (135, 136)
"""ICMPv6 types of solicitations and advertisements (RFC 4861); no router passes them on."""


def guard_filter(
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
    """Return the filter that holds packets to the routes' destinations to their devices.

    The longest prefix is judged first and finally, as in routing, so that a circuit of its
    own for a part of another circuit's destination works.

    Args:
        name: the table's.
        mark: of the node's own datagrams.
        routes: of the guard's table.
        devices: further devices that circuits end in.
        expected: inner addresses that this host is about to hold.
        own_ports: UDP ports of the node itself.
        without_default: IP versions for which this host has no default route.
        outside: devices of default routes; what leaves there is for no host behind this one.
    """
    guarded = _guarded(routes, expected)
    held = (each.device for each in guarded.carried.values() if each.device is not None)
    circuits = list(dict.fromkeys((*devices, *held)))
    early = [_from_this_host(Hook.EARLY), *(_from_device(Hook.EARLY, each) for each in circuits)]
    arriving = [_from_this_host(Hook.PREROUTING)]
    for device in circuits:
        arriving += [
            Rule(hook=Hook.PREROUTING, verdict=Verdict.ACCEPT, in_device=device, reply=True),
            Rule(hook=Hook.PREROUTING, verdict=Verdict.DROP, in_device=device),
        ]
    arriving += _not_held(guarded)
    delivered = [_from_device(Hook.INPUT, each) for each in ("lo", *circuits)]
    delivered += [
        Rule(hook=Hook.INPUT, verdict=Verdict.DROP, destination=each) for each in guarded.inner
    ]
    leaving = [Rule(hook=Hook.POSTROUTING, verdict=Verdict.ACCEPT, out_device="lo")]
    leaving += _leaving_in_the_clear(guarded)
    for prefix in guarded.prefixes:
        if prefix in guarded.carried:
            leaving.append(
                Rule(
                    hook=Hook.POSTROUTING,
                    verdict=Verdict.ACCEPT,
                    out_device=guarded.carried[prefix].device,
                    # Else connection tracking knows a connection that no circuit carries, and the
                    # destination would get no answer when it begins the same one.
                    source=_inner_network(guarded.carried[prefix]),
                    destination=prefix,
                )
            )
        leaving.append(Rule(hook=Hook.POSTROUTING, verdict=Verdict.DROP, destination=prefix))
    leaving += [
        Rule(hook=Hook.POSTROUTING, verdict=Verdict.DROP, source=each) for each in guarded.inner
    ]
    leaving += _to_inner_addresses(guarded)
    early += _unanswered(without_default)
    answers = _answers(guarded, early, arriving, own_ports)
    answers += _passed_on(guarded, outside)
    return FilterTable(name, mark, (*answers, *delivered, *leaving))


def _inner_network(route: Route) -> IpNetwork | None:
    return None if route.source is None else ipaddress.ip_network(route.source)


def ipsec_guard_filter(
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
    """Return the filter for circuits that the kernel's IPsec carries; see :func:`guard_filter`.

    A packet meets it before it is encapsulated, already under the name of the underlay's
    device. So it lets out what a policy will put into a tunnel, and in what came out of one.
    """
    guarded = _guarded(routes, expected)
    early = [
        _from_this_host(Hook.EARLY),
        # A link's outer packet from a protected peer was marked; what was in it is no answer.
        Rule(hook=Hook.EARLY, verdict=Verdict.UNMARK, mark=ANSWER_MARK, ipsec_in=True),
        Rule(hook=Hook.EARLY, verdict=Verdict.ACCEPT, ipsec_in=True),
    ]
    fragmenting = dict.fromkeys(r.device for r in guarded.carried.values() if r.rerouted)
    leaving = [
        Rule(hook=Hook.POSTROUTING, verdict=Verdict.ACCEPT, out_device=each)
        for each in ("lo", *fragmenting)
    ]
    leaving.append(Rule(hook=Hook.POSTROUTING, verdict=Verdict.ACCEPT, mark=ANSWER_MARK))
    leaving += [
        Rule(hook=Hook.POSTROUTING, verdict=Verdict.DROP, source=each, ipsec_out=False)
        for each in guarded.inner
    ]
    leaving += _to_inner_addresses(guarded, ipsec_out=False)
    leaving += _leaving_in_the_clear(guarded)
    leaving.append(
        Rule(hook=Hook.POSTROUTING, verdict=Verdict.ACCEPT, mark=mark | LARGE_MARK),
    )
    for prefix in guarded.prefixes:
        leaving += _into_circuit(guarded.carried.get(prefix))
        leaving.append(_REPLY_OF_AN_EXIT)
        leaving.append(Rule(hook=Hook.POSTROUTING, verdict=Verdict.DROP, destination=prefix))
    arriving = [_from_this_host(Hook.PREROUTING), *_out_of_ipsec(), *_not_held(guarded)]
    delivered = [_from_this_host(Hook.INPUT)]
    for each in guarded.inner:
        delivered += [
            Rule(hook=Hook.INPUT, verdict=Verdict.DROP, destination=each, ipsec_in=False),
            # A stranger's packet in the address's name is forwarded as any other, but not for it.
            Rule(
                hook=Hook.FORWARD,
                verdict=Verdict.DROP,
                source=each,
                mark=ANSWER_MARK,
                ipsec_out=True,
            ),
        ]
    early += _unanswered(without_default)
    answers = _answers(guarded, early, arriving, own_ports)
    answers += _passed_on(guarded, outside)
    return FilterTable(name, mark, (*answers, *delivered, *leaving, *_not_carried(guarded)))


def _not_carried(guarded: _Protected) -> Iterator[Rule]:
    """Refuse what no circuit carries, before IPsec takes it; no other rule comes after these."""
    for each in guarded.inner:
        for protocol in (_TCP, _UDP, _ICMP[each.version]):
            yield Rule(hook=Hook.OUTPUT, verdict=Verdict.ACCEPT, source=each, protocol=protocol)
        yield Rule(hook=Hook.OUTPUT, verdict=Verdict.REFUSE, source=each)


@dataclass(frozen=True, slots=True)
class _Protected:
    """Protected prefixes, longest first, those that have a circuit, and inner addresses."""

    prefixes: list[IpNetwork]
    carried: dict[IpNetwork, Route]
    inner: list[IpNetwork]

    @property
    def versions(self) -> list[int]:
        return sorted({prefix.version for prefix in self.prefixes})

    @property
    def stand_ins(self) -> list[IpNetwork]:
        return [ipaddress.ip_network(STAND_INS[version]) for version in self.versions]


def _guarded(routes: Sequence[Route], expected: Sequence[IpAddress]) -> _Protected:
    carried = {r.destination: r for r in routes if r.kind is RouteKind.UNICAST and r.device}
    prefixes = sorted({r.destination for r in routes}, key=lambda p: (-p.prefixlen, str(p)))
    held = (*(r.source for r in carried.values() if r.source is not None), *expected)
    return _Protected(prefixes, carried, [ipaddress.ip_network(a) for a in dict.fromkeys(held)])


def _to_inner_addresses(guarded: _Protected, *, ipsec_out: bool | None = None) -> Iterator[Rule]:
    """Drop errors of this host about its own packets, once it holds the address no longer."""
    for each in guarded.inner:
        yield Rule(
            hook=Hook.POSTROUTING, verdict=Verdict.DROP, destination=each, ipsec_out=ipsec_out
        )


def _from_this_host(hook: Hook) -> Rule:
    return _from_device(hook, "lo")


def _from_device(hook: Hook, device: str) -> Rule:
    return Rule(hook=hook, verdict=Verdict.ACCEPT, in_device=device)


# -- what others begin -------------------------------------------------------------------


def _answers(
    guarded: _Protected, early: list[Rule], arriving: list[Rule], own_ports: Sequence[int]
) -> list[Rule]:
    """Return the rules for what comes in, behind those for what did not come in the clear.

    The kernel gives its own answers (ICMP, RST) and accepted TCP connections the mark of the
    packet that caused them (fwmark_reflect, tcp_fwmark_accept). UDP programs answer without a
    mark, so they see the stand-in in place of the protected host. What they send to the host
    itself is this host's own traffic, whatever the host sent before.
    """
    rules = [
        # With br_netfilter, Linux shows a bridge's frames to the filter as if they were forwarded.
        Rule(hook=Hook.FORWARD, verdict=Verdict.BRIDGED),
        *(
            Rule(hook=hook, verdict=Verdict.ACCEPT, mark=BRIDGED_MARK)
            for hook in (Hook.EARLY, Hook.PREROUTING, Hook.POSTROUTING)
        ),
        *early,
        *_sent_through(guarded),
        *(
            Rule(hook=Hook.EARLY, verdict=Verdict.ANSWER, source=each)
            for each in (*guarded.prefixes, *guarded.inner, *guarded.stand_ins)
        ),
        *(
            Rule(hook=Hook.EARLY, verdict=Verdict.ANSWER, destination=each)
            for each in guarded.inner
        ),
        *(
            _icmp(Hook.EARLY, Verdict.ANSWER, version, icmp_type)
            for version, icmp_type in _error_types(guarded, with_redirects=True)
        ),
        *arriving,
        *_about_inner_addresses(guarded),
        # They would lower a circuit's packet size if they named a UDP service of this host.
        *(
            _icmp(Hook.PREROUTING, Verdict.DROP, version, icmp_type, unknown=True, local=True)
            for version, icmp_type in _error_types(guarded)
        ),
    ]
    # Only answers. What a program sends there when its connection is forgotten would show the
    # stand-in to a router, so it keeps no mark and is dropped.
    rules += [
        Rule(hook=hook, verdict=Verdict.ANSWER, destination=stand_in, reply=True)
        for stand_in in guarded.stand_ins
        for hook in (Hook.PREROUTING, Hook.OUTPUT)
    ]
    for prefix in guarded.prefixes:
        rules += _answers_of_others(prefix)
        rules += _standing_in_for_others(prefix)
    for prefix in (*guarded.prefixes, *guarded.inner):
        rules += _standing_in(prefix, own_ports)
    rules += [
        Rule(hook=Hook.OUTPUT, verdict=Verdict.DROP, source=each, mark=ANSWER_MARK)
        for each in guarded.inner
    ]
    return rules


def _sent_through(guarded: _Protected) -> Iterator[Rule]:
    """Say nothing about packets of others to a protected host.

    The guard's table calls the host unreachable while no circuit carries it. Linux tells that even
    to neighbours on IPv6 that this host does not forward for.
    """
    for prefix in guarded.prefixes:
        yield Rule(hook=Hook.EARLY, verdict=Verdict.FOREIGN, destination=prefix)
    # A prefix may have addresses of this host.
    yield Rule(hook=Hook.EARLY, verdict=Verdict.UNMARK, mark=FOREIGN_MARK, local=True)
    for version in guarded.versions:
        unreachable = _icmp(Hook.OUTPUT, Verdict.DROP, version, _UNREACHABLE[version])
        yield replace(unreachable, mark=FOREIGN_MARK)


def _passed_on(guarded: _Protected, outside: Collection[str]) -> Iterator[Rule]:
    """Keep the stand-in from the wire: it is for hosts behind this one."""
    for device in outside:
        for prefix in guarded.prefixes:
            passed = Rule(
                hook=Hook.FORWARD,
                verdict=Verdict.PASS_ON,
                source=prefix,
                out_device=device,
                mark=ANSWER_MARK,
            )
            yield passed
            # A published port may lead there. The service answers through this host.
            yield replace(passed, verdict=Verdict.ANSWER, mark=BRIDGED_MARK, redirected=True)


def _unanswered(versions: Collection[int]) -> Iterator[Rule]:
    """Drop what strangers send from a stand-in; the only route to it is for answers."""
    for version in versions:
        stand_in = ipaddress.ip_network(STAND_INS[version])
        yield Rule(hook=Hook.EARLY, verdict=Verdict.DROP, source=stand_in)


def _error_types(guarded: _Protected, *, with_redirects: bool = False) -> Iterator[tuple[int, int]]:
    for version in guarded.versions:
        for icmp_type in _ERRORS[version]:
            yield version, icmp_type
        # Connection tracking does not look at IPv6 redirects, so none is known to it.
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


def _not_held(guarded: _Protected) -> Iterator[Rule]:
    """Let a packet to an inner address go its way, if it came in the clear.

    Otherwise a neighbour could find out which inner address this host holds (CVE-2019-14899).
    A routing rule for marked packets leads past the address
    (:meth:`~overlay.system.rtnetlink.Rtnetlink.hide_addresses`): a router then forwards them, or
    says that their time is exceeded, as it does for addresses that it does not have. Where that
    rule fails, the input hook drops them.
    """
    for inner in guarded.inner:
        # Other programs overwrite marks (wg-quick restores one for all UDP).
        yield Rule(hook=Hook.PREROUTING, verdict=Verdict.ANSWER, destination=inner)
        yield Rule(hook=Hook.PREROUTING, verdict=Verdict.ACCEPT, destination=inner)


def _about_inner_addresses(guarded: _Protected) -> Iterator[Rule]:
    """Drop ICMP errors in the clear about a circuit's connections.

    With one about a connection, an exit could find out which host holds the address that it lent.
    """
    for inner in guarded.inner:
        for version, icmp_type in _error_types(guarded):
            if version == inner.version:
                dropped = _icmp(Hook.PREROUTING, Verdict.DROP, version, icmp_type)
                yield replace(dropped, reply_destination=inner)


def _answers_of_others(prefix: IpNetwork) -> Iterator[Rule]:
    """Mark what hosts behind this one answer to an echo request of the prefix.

    Nothing but a request makes such a connection known. Over TCP and UDP they see the stand-in,
    because connection tracking also takes a packet from the middle of a connection for its first
    one, and then for the other end's: an older connection of theirs would go on in the clear.
    """
    yield Rule(
        hook=Hook.PREROUTING,
        verdict=Verdict.ANSWER,
        destination=prefix,
        protocol=_ICMP[prefix.version],
        reply=True,
    )


def _standing_in(prefix: IpNetwork, own_ports: Sequence[int]) -> Iterator[Rule]:
    """Show UDP programs here the stand-in; not the node itself."""
    for ports in _other_ports(own_ports):
        yield Rule(
            hook=Hook.INPUT,
            verdict=Verdict.STAND_IN,
            source=prefix,
            # Not by the mark, which other programs overwrite (wg-quick restores one for all UDP).
            # Of what came out of a circuit, answers alone come here, and they are not translated.
            protocol=_UDP,
            ports=ports,
        )


def _standing_in_for_others(prefix: IpNetwork) -> Iterator[Rule]:
    """Show all behind this host the stand-in."""
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


def _leaving_in_the_clear(guarded: _Protected) -> Iterator[Rule]:
    """Let out the node's own datagrams, answers, and what finds neighbours on a link."""
    hook = Hook.POSTROUTING
    yield Rule(hook=hook, verdict=Verdict.ACCEPT, has_mark=True)
    yield Rule(hook=hook, verdict=Verdict.ACCEPT, mark=ANSWER_MARK)
    for icmp_type in _NEIGHBOUR_TYPES if 6 in guarded.versions else ():
        yield _icmp(hook, Verdict.ACCEPT, 6, icmp_type)
    for stand_in in guarded.stand_ins:
        yield Rule(hook=hook, verdict=Verdict.DROP, destination=stand_in)


# -- circuits that the kernel carries ----------------------------------------------------


_REPLY_OF_AN_EXIT: Final = Rule(
    hook=Hook.POSTROUTING, verdict=Verdict.ACCEPT, version=4, mark=REROUTE_MARK, ipsec_out=True
)
"""One that was cut; on its first way through here it had the node's mark."""


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
    """Let in through IPsec what is the node's own, what is for others, and answers.

    These rules need no inner address, so they stand before there is one.
    """
    hook = Hook.PREROUTING
    for network in OVERLAY_NETWORKS:
        yield Rule(hook=hook, verdict=Verdict.ACCEPT, destination=network, ipsec_in=True)
    yield Rule(hook=hook, verdict=Verdict.ACCEPT, ipsec_in=True, reply=True)
    yield Rule(hook=hook, verdict=Verdict.DROP, ipsec_in=True, local=True)
    # A translation of another program that came before (nftables lets it choose when) has put a
    # host behind this one in the place of the local address.
    yield Rule(hook=hook, verdict=Verdict.DROP, ipsec_in=True, redirected=True)
    yield Rule(hook=hook, verdict=Verdict.ACCEPT, ipsec_in=True)
