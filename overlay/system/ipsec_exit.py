"""The exit policy as packet filter rules, for circuits that the kernel's IPsec carries.

::

    IPsec ──> source is in the pool ──> this host? another circuit? the overlay?   refuse
                                        exit policy: first rule that covers it    accept, refuse
    outside ──> in the clear, to or from an inner address                          drop
            ──> reply to a connection that began inside ──> IPsec will take it,
                                                            or fragments it first  accept
                                                            else                   drop

A refused packet is dropped, and the source gets an ICMP error
(``overlay.node.shells.refusals``). This holds for every rule that refuses. If some refusals were
silent, a circuit could find out which addresses belong to this host.

The rules are equivalent to ``overlay.exit_policy.ExitPolicy.permits``. Connection tracking has
reassembled the packets before, so that every packet has its ports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from overlay.addresses import OVERLAY_NETWORKS, IpNetwork
from overlay.exit_policy import ExitPolicy, ExitRule
from overlay.special_networks import FORBIDDEN_NETWORKS, services_within
from overlay.system.exit_firewall import (
    after_translation,
    redirected_connections,
    unknown_connections,
)
from overlay.system.normalisation import normalising_rules
from overlay.system.packet_filter import Hook, Rule, Verdict

__all__ = ["ipsec_exit_rules"]

_PORT_PROTOCOLS: Final = (6, 17)
_TCP_HEADERS: Final = {4: 40, 6: 60}
"""Bytes of the headers of IP and TCP without options."""


def ipsec_exit_rules(
    pools: Sequence[IpNetwork],
    devices: Callable[[int], Sequence[str]],
    policy: ExitPolicy,
    *,
    mtu: int,
    segment_mtu: int,
    closed: Sequence[str],
    fragmenting: str | None = None,
    before: Callable[[IpNetwork], Iterable[Rule]] = lambda _: (),
) -> tuple[Rule, ...]:
    """Return the filter of an exit; see ``overlay.system.exit_filter.ExitNetworks``.

    ``devices`` returns the uplinks of an IP version. ``before`` returns the rules for a pool that
    precede the policy. ``segment_mtu`` is the largest packet in bytes that TCP may send into
    circuits.
    """
    rules: list[Rule] = [Rule(hook=Hook.PREROUTING, verdict=Verdict.ACCEPT, in_device="lo")]
    for pool in pools:
        rules += _entering(pool)
    every = dict.fromkeys(each for pool in pools for each in devices(pool.version))
    rules += [
        Rule(hook=Hook.PREROUTING, verdict=Verdict.RESTORE_MARK, in_device=each) for each in every
    ]
    for pool in pools:
        own = Rule(hook=Hook.INPUT, verdict=Verdict.REFUSE, source=pool, ipsec_in=True)
        rules += [
            own,
            unknown_connections(pool),
            redirected_connections(pool),
            *(_refusal(rule) for rule in before(pool)),
            *_outwards(pool, devices(pool.version), policy),
        ]
        rules += _inwards(pool, fragmenting if pool.version == 4 else None, segment_mtu)
    rules += _closed(closed, pools)
    rules += [
        Rule(hook=Hook.POSTROUTING, verdict=Verdict.MASQUERADE, source=pool, out_device=each)
        for pool in pools
        for each in devices(pool.version)
    ]
    for pool in pools:
        outgoing = Rule(hook=Hook.POSTROUTING, verdict=Verdict.ACCEPT, source=pool)
        answer = Rule(hook=Hook.POSTROUTING, verdict=Verdict.ACCEPT, destination=pool)
        rules += [*normalising_rules(outgoing), *normalising_rules(answer, at_most=mtu)]
    rules += after_translation(pools, (), ipsec=True)
    return tuple(rules)


def _refusal(rule: Rule) -> Rule:
    """Return the rule with REFUSE in place of DROP, except for limits.

    A packet that exceeds a limit may pass a moment later, so the source gets no error.
    """
    is_final = rule.verdict is Verdict.DROP and rule.over is None
    return replace(rule, verdict=Verdict.REFUSE) if is_final else rule


def _entering(pool: IpNetwork) -> list[Rule]:
    hook = Hook.PREROUTING
    return [
        Rule(hook=hook, verdict=Verdict.DROP, source=pool, ipsec_in=False),
        Rule(hook=hook, verdict=Verdict.DROP, destination=pool, ipsec_in=False),
        Rule(hook=hook, verdict=Verdict.MARK, source=pool, ipsec_in=True),
    ]


def _outwards(pool: IpNetwork, outward: Sequence[str], policy: ExitPolicy) -> Iterator[Rule]:
    """Yield the rules for packets from one pool; the last one refuses the rest."""
    hook, version = Hook.FORWARD, pool.version
    yield Rule(hook=hook, verdict=Verdict.CLAMP_MSS, source=pool, ipsec_in=True)
    own = [pool, *(each for each in OVERLAY_NETWORKS if version == 6)]
    for network in own:
        yield Rule(hook=hook, verdict=Verdict.REFUSE, source=pool, destination=network)
    rules = [rule for rule in policy.rules if rule.network.version == version]
    # The longest prefixes first, because each ends with a refusal of the rest of it.
    for opened in sorted(policy.allowed_forbidden, key=lambda n: n.prefixlen, reverse=True):
        if opened.version == version:
            for service in services_within(opened):
                yield Rule(hook=hook, verdict=Verdict.REFUSE, source=pool, destination=service)
            yield from _judged(pool, rules, outward, within=opened)
    for forbidden, _ in FORBIDDEN_NETWORKS:
        if forbidden.version == version:
            yield Rule(hook=hook, verdict=Verdict.REFUSE, source=pool, destination=forbidden)
    yield from _judged(pool, rules, outward, within=None)


def _judged(
    pool: IpNetwork, rules: Sequence[ExitRule], outward: Sequence[str], within: IpNetwork | None
) -> Iterator[Rule]:
    """Yield the exit's rules for destinations within a network (None for all), then a refusal."""
    for rule in rules:
        destination = rule.network if within is None else _common(rule.network, within)
        if destination is not None:
            yield from _as_filter_rules(pool, rule, destination, outward)
    yield Rule(hook=Hook.FORWARD, verdict=Verdict.REFUSE, source=pool, destination=within)


def _common(first: IpNetwork, second: IpNetwork) -> IpNetwork | None:
    """Return the smaller of two networks of one IP version that overlap, else None."""
    if not first.overlaps(second):
        return None
    return max(first, second, key=lambda network: network.prefixlen)


def _as_filter_rules(
    pool: IpNetwork, rule: ExitRule, destination: IpNetwork, outward: Sequence[str]
) -> Iterator[Rule]:
    """Yield one rule for each protocol of a port range and each uplink."""
    ranges: list[tuple[int | None, tuple[int, int] | None]] = [(None, None)]
    if not rule.every_port:
        ranges = [(each, (rule.first_port, rule.last_port)) for each in _PORT_PROTOCOLS]
    for protocol, ports in ranges:
        for device in outward if rule.accept else (None,):
            yield Rule(
                hook=Hook.FORWARD,
                verdict=Verdict.ACCEPT if rule.accept else Verdict.REFUSE,
                source=pool,
                destination=destination,
                protocol=protocol,
                ports=ports,
                out_device=device,
                ipsec_in=True,
            )


def _inwards(pool: IpNetwork, fragmenting: str | None, segment_mtu: int) -> list[Rule]:
    """Accept only replies, into IPsec or to the device that fragments packets before IPsec."""
    into = Rule(
        hook=Hook.FORWARD,
        verdict=Verdict.ACCEPT,
        destination=pool,
        out_device=fragmenting,
        ipsec_out=True if fragmenting is None else None,
    )
    return [
        replace(into, verdict=Verdict.CLAMP_MSS, segment=segment_mtu - _TCP_HEADERS[pool.version]),
        replace(into, reply=True),
        Rule(hook=Hook.FORWARD, verdict=Verdict.DROP, destination=pool),
    ]


def _closed(devices: Sequence[str], pools: Sequence[IpNetwork]) -> list[Rule]:
    """Keep devices that did not forward before from forwarding for other hosts."""
    if not any(pool.version == 4 for pool in pools):
        return []
    return [
        Rule(
            hook=Hook.FORWARD,
            verdict=Verdict.DROP,
            version=4,
            in_device=each,
            ipsec_in=False,
            ipsec_out=False,
        )
        for each in devices
    ]
