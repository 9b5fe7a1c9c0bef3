"""The packet filter of an exit as a pure function of its configuration.

``overlay.system.exit_filter`` computes the configuration from the host's state and installs the
rules.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from overlay.addresses import IpAddress, IpNetwork
from overlay.exit_policy import ExitPolicy
from overlay.packet_sizes import SEGMENT_MTU
from overlay.system.exit_firewall import (
    after_translation,
    redirected_connections,
    unknown_connections,
)
from overlay.system.exit_limits import ExitLimits, limit_rules, refused_destinations
from overlay.system.exit_probe import probe_rules
from overlay.system.ipsec_exit import ipsec_exit_rules
from overlay.system.normalisation import normalising_rules
from overlay.system.packet_filter import Hook, Rule, Verdict

__all__ = ["ExitNetworks", "exit_gateway", "exit_rules"]


@dataclass(frozen=True, slots=True)
class ExitNetworks:
    """The networks and devices of an exit: where inner packets come from and may go.

    Attributes:
        device: name of the exit's TUN device.
        pools: networks of inner addresses, at most one per IP version.
        mtu: size in bytes of the largest inner packet.
        outward: uplinks over IPv4, and over IPv6 if ``outward6`` is None.
        policy: exit policy for the filter to enforce. It is given if inner packets come out of the
            kernel's IPsec, so that the node does not see them; else None.
        closed: devices that did not forward IPv4 before.
        fragmenting: device that IPv4 replies pass before IPsec takes them, if any.
        limits: limits of connections, if any.
        refused: networks that no circuit reaches under any policy, because this host or its
            gateway answers there.
        left: pools that this host itself has begun to use; ``pools`` does not contain them.
        outward6: uplinks over IPv6, if they differ.
        own_links: networks that no circuit reaches because they are on this host's links.
        closed6: whether no device forwarded IPv6 before.
    """

    device: str
    pools: tuple[IpNetwork, ...]
    mtu: int
    outward: tuple[str, ...]
    policy: ExitPolicy | None = None
    closed: tuple[str, ...] = ()
    fragmenting: str | None = None
    limits: ExitLimits | None = None
    refused: tuple[IpNetwork, ...] = ()
    left: tuple[IpNetwork, ...] = ()
    outward6: tuple[str, ...] | None = None
    own_links: tuple[IpNetwork, ...] = ()
    closed6: bool = False

    @property
    def segment_mtu(self) -> int:
        """Size in bytes of the largest packet that TCP may send into circuits."""
        return min(self.mtu, SEGMENT_MTU)

    @property
    def versions(self) -> frozenset[int]:
        """The IP versions that the exit serves."""
        return frozenset(pool.version for pool in self.pools)

    @property
    def inside(self) -> tuple[str, ...]:
        """The devices that lead into circuits."""
        return tuple(each for each in (self.device, self.fragmenting) if each is not None)

    @property
    def all_outward(self) -> tuple[str, ...]:
        """The uplinks of both IP versions."""
        return tuple(dict.fromkeys((*self.outward, *(self.outward6 or ()))))

    def devices(self, version: int) -> tuple[str, ...]:
        """Return the uplinks of an IP version."""
        return self.outward if version == 4 or self.outward6 is None else self.outward6


def exit_gateway(pool: IpNetwork) -> IpAddress:
    """Return the pool's first host address, which is the source of the exit's ICMP errors.

    It must not be lent to a circuit. Without it the kernel would use another address of this host,
    perhaps a private one, and disclose it to the source.
    """
    return pool.network_address + 1


def exit_rules(plan: ExitNetworks) -> tuple[Rule, ...]:
    """Return the exit's packet filter rules, in the order in which a packet passes them."""
    probes = [
        rule
        for pool in plan.pools
        for rule in probe_rules(pool, plan.device, plan.devices(pool.version))
    ]
    return (*probes, *_circuit_rules(plan))


def _circuit_rules(plan: ExitNetworks) -> tuple[Rule, ...]:
    if plan.policy is not None:
        left = (
            Rule(hook=Hook.PREROUTING, verdict=Verdict.DROP, source=pool, ipsec_in=True)
            for pool in plan.left
        )
        return (
            *left,
            *ipsec_exit_rules(
                plan.pools,
                plan.devices,
                plan.policy,
                mtu=plan.mtu,
                segment_mtu=plan.segment_mtu,
                closed=plan.closed,
                fragmenting=plan.fragmenting,
                before=lambda pool: _before_policy(plan, pool),
            ),
        )
    return (
        *_entering(plan),
        Rule(hook=Hook.INPUT, verdict=Verdict.DROP, in_device=plan.device),
        *_forwarded(plan),
        *_normalised(plan),
        *_masqueraded(plan),
        *after_translation(plan.pools, plan.inside),
    )


def _entering(plan: ExitNetworks) -> list[Rule]:
    hook, device = Hook.PREROUTING, plan.device
    rules = [
        Rule(hook=hook, verdict=Verdict.DROP, in_device=device, not_source=pool)
        for pool in plan.pools
    ]
    rules += [
        Rule(hook=hook, verdict=Verdict.DROP, in_device=device, version=version)
        for version in sorted({4, 6} - plan.versions)
    ]
    rules.append(Rule(hook=hook, verdict=Verdict.MARK, in_device=device))
    rules += [
        Rule(hook=hook, verdict=Verdict.RESTORE_MARK, in_device=outward)
        for outward in plan.all_outward
    ]
    return rules


def _forwarded(plan: ExitNetworks) -> list[Rule]:
    hook, device = Hook.FORWARD, plan.device
    return [
        *(
            Rule(hook=hook, verdict=Verdict.DROP, not_in_device=device, source=pool)
            for pool in plan.pools
        ),
        *(unknown_connections(pool) for pool in plan.pools),
        *(redirected_connections(pool) for pool in plan.pools),
        *(rule for pool in plan.pools for rule in _before_policy(plan, pool)),
        Rule(hook=hook, verdict=Verdict.CLAMP_MSS, in_device=device),
        *(
            Rule(
                hook=hook,
                verdict=Verdict.CLAMP_MSS,
                out_device=device,
                version=version,
                segment=plan.segment_mtu - headers,
            )
            for version, headers in ((4, 40), (6, 60))  # IP and TCP without options
        ),
        *(
            Rule(hook=hook, verdict=Verdict.DROP, in_device=device, destination=pool)
            for pool in plan.pools
        ),
        *(
            Rule(
                hook=hook,
                verdict=Verdict.ACCEPT,
                in_device=device,
                out_device=outward,
                version=version,
            )
            for version, outward in _accepted(plan)
        ),
        Rule(hook=hook, verdict=Verdict.DROP, in_device=device),
        Rule(hook=hook, verdict=Verdict.ACCEPT, out_device=device, reply=True),
        Rule(hook=hook, verdict=Verdict.DROP, out_device=device),
        *_closed(plan),
    ]


def _closed(plan: ExitNetworks) -> Iterator[Rule]:
    """Yield rules that keep a host from forwarding for others if it did not do so before."""
    hook = Hook.FORWARD
    for each in plan.closed if 4 in plan.versions else ():
        yield Rule(hook=hook, verdict=Verdict.DROP, version=4, in_device=each)
    if plan.closed6 and 6 in plan.versions:
        yield Rule(hook=hook, verdict=Verdict.DROP, version=6, not_in_device=plan.device)


def _accepted(plan: ExitNetworks) -> Iterator[tuple[int | None, str]]:
    """Yield the IP version (None for both) and the name of each uplink."""
    if plan.outward6 is None:
        yield from ((None, each) for each in plan.outward)
        return
    for version in (4, 6):
        yield from ((version, each) for each in plan.devices(version))


def _before_policy(plan: ExitNetworks, pool: IpNetwork) -> Iterator[Rule]:
    """Yield rules that drop packets of circuits under any exit policy."""
    yield from refused_destinations(pool, (*plan.refused, *plan.own_links))
    if plan.limits is not None:
        yield from limit_rules(pool, plan.limits, len(plan.versions))


def _normalised(plan: ExitNetworks) -> list[Rule]:
    """Return rules that normalise header fields in both directions.

    Packets that still have a flow label are not dropped. For replies, the node itself does what
    iptables cannot.
    """
    hook, rules = Hook.POSTROUTING, list[Rule]()
    for pool in plan.pools:
        outgoing = Rule(hook=hook, verdict=Verdict.ACCEPT, source=pool)
        answer = Rule(hook=hook, verdict=Verdict.ACCEPT, out_device=plan.device, destination=pool)
        rules += normalising_rules(outgoing, drop_labels=False)
        rules += normalising_rules(answer, at_most=plan.mtu, drop_labels=False)
    return rules


def _masqueraded(plan: ExitNetworks) -> list[Rule]:
    return [
        Rule(hook=Hook.POSTROUTING, verdict=Verdict.MASQUERADE, source=pool, out_device=outward)
        for pool in plan.pools
        for outward in plan.devices(pool.version)
    ]
