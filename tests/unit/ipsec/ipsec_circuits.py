"""Circuits written by hand after the data path's recipe, for the engine's tests.

alice is the source, mix1 ... mixN are the hops, and mallory holds a link to every mix.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from random import Random

from overlay.addresses import CIRCUIT_PREFIX, OVERLAY_PREFIX, Endpoint
from overlay.ipsec.esp import InboundSa, OutboundSa
from overlay.ipsec.headers import IPV4
from overlay.ipsec.interface import (
    ANY_V4,
    ANY_V6,
    IpsecConfiguration,
    Lifetime,
    PolicyDirection,
    Prefix,
    SecurityAssociation,
    SecurityPolicy,
    Selector,
    Spi,
    Template,
    UdpEncapsulation,
)
from overlay.ipsec.suites import SUITES
from overlay.ipsec.userspace.engine import Processed, UserspaceEngine
from overlay.sensitive import SecretBytes

NOW = 1_700_000_000.0
UDP = 17
BOB_V4 = bytes((192, 0, 2, 80))
BOB_V6 = bytes.fromhex("20010db8000000000000000000000080")
INNER_V4 = bytes((100, 64, 0, 7))
INNER_V6 = bytes.fromhex("fd696e6e657200000000000000000007")


def ipv4(source: bytes, destination: bytes, payload: bytes, protocol: int = UDP) -> bytes:
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0)
    return header + source + destination + payload


def ipv6(source: bytes, destination: bytes, payload: bytes, next_header: int = UDP) -> bytes:
    header = struct.pack(">IHBB", 0x60000000, len(payload), next_header, 64)
    return header + source + destination + payload


def ip(source: bytes, destination: bytes, payload: bytes, protocol: int = UDP) -> bytes:
    return (ipv4 if len(source) == 4 else ipv6)(source, destination, payload, protocol)


def keymat(suite: int, seed: int) -> SecretBytes:
    return SecretBytes(Random(seed).randbytes(SUITES[suite].keymat_bytes))


def overlay_address(index: int) -> bytes:
    return OVERLAY_PREFIX + index.to_bytes(12, "big")


def circuit_address(index: int) -> bytes:
    return CIRCUIT_PREFIX + index.to_bytes(12, "big")


def underlay(index: int) -> Endpoint:
    return Endpoint(f"198.51.100.{index + 1}", 4500)


@dataclass
class SaEnds:
    """The two values of one SA: its sender's and its receiver's."""

    outbound: SecurityAssociation
    inbound: SecurityAssociation


def sa_ends(
    spi: int,
    reqids: tuple[int, int],
    source: bytes,
    destination: bytes,
    *,
    suite: int = 3,
    udp: tuple[Endpoint, Endpoint] | None = None,
    esn: bool = True,
    tfc_pad_to: int = 0,
    lifetime: Lifetime | None = None,
    replay_window: int = 1024,
    key_seed: int | None = None,
) -> SaEnds:
    def end(reqid: int, *, inbound: bool) -> SecurityAssociation:
        return SecurityAssociation(
            spi=Spi(spi),
            reqid=reqid,
            source=source,
            destination=destination,
            suite=suite,
            keymat=keymat(suite, spi if key_seed is None else key_seed),
            inbound=inbound,
            encapsulation=None if udp is None else UdpEncapsulation(*udp),
            esn=esn,
            replay_window=replay_window,
            tfc_pad_to=tfc_pad_to,
            lifetime=lifetime or Lifetime(),
        )

    return SaEnds(end(reqids[0], inbound=False), end(reqids[1], inbound=True))


def advance(into: InboundSa, outbound: SecurityAssociation, sequence: int) -> None:
    """Move the window of an SA with ESN to a number by packets as far apart as a peer may skip."""
    while into.highest < sequence:
        following = min(sequence, into.highest + 2**31)
        sa = OutboundSa(outbound, Random(following), lambda _: None, start=following - 1)
        sealed = sa.seal(ipv4(INNER_V4, BOB_V4, b"advance"), IPV4, NOW)
        assert isinstance(sealed, bytes)
        outer_bytes = 0 if outbound.encapsulation else 40 if len(outbound.source) == 16 else 20
        assert isinstance(into.open(sealed, outer_bytes, NOW), bytes)


def template(sa: SecurityAssociation) -> Template:
    return Template(sa.source, sa.destination, sa.reqid)


def policy(
    direction: PolicyDirection,
    source: bytes | None,
    destination: bytes | None,
    *associations: SecurityAssociation,
    protocol: int | None = None,
) -> SecurityPolicy:
    """``None`` stands for any address of the other's family; SAs innermost first."""
    known = source or destination
    any_prefix = ANY_V4 if known is not None and len(known) == 4 else ANY_V6
    return SecurityPolicy(
        direction,
        Selector(
            any_prefix if source is None else Prefix.host(source),
            any_prefix if destination is None else Prefix.host(destination),
            protocol,
        ),
        tuple(template(association) for association in associations),
    )


@dataclass
class Host:
    """One node's engine and the links that it has: towards a neighbour, and from it."""

    index: int
    engine: UserspaceEngine
    out_link: dict[int, SecurityAssociation] = field(default_factory=dict)
    in_link: dict[int, SecurityAssociation] = field(default_factory=dict)

    @property
    def overlay(self) -> bytes:
        return overlay_address(self.index)


@dataclass
class Circuit:
    """A circuit of ``hops`` hops: hosts 0 (alice) to ``hops``, and mallory after them."""

    hosts: list[Host]
    inner: bytes
    bob: bytes
    forward: list[SaEnds]
    backward: list[SaEnds]
    configurations: list[IpsecConfiguration]

    @property
    def alice(self) -> Host:
        return self.hosts[0]

    @property
    def exit(self) -> Host:
        return self.hosts[-2]

    @property
    def mallory(self) -> Host:
        return self.hosts[-1]

    def carry(
        self, at: Host, datagrams: list[tuple[bytes, Endpoint]], now: float = NOW
    ) -> tuple[Host, Processed]:
        """Follow datagrams from host to host until a host keeps their packets."""
        for _ in range(len(self.hosts) + 1):
            to = next(h for h in self.hosts if underlay(h.index) == datagrams[0][1])
            result = to.engine.process_inbound(
                [(data, underlay(at.index)) for data, _ in datagrams], now
            )
            if not result.to_network:
                return to, result
            at, datagrams = to, result.to_network
        raise AssertionError("the datagrams went in a circle")


def connect(one: Host, other: Host, *, suite: int = 3, tfc_pad_to: int = 0) -> None:
    """Give two hosts a link SA in each direction, with signalling policies for it."""
    for sender, receiver in ((one, other), (other, one)):
        ends = sa_ends(
            0x1000 + sender.index * 16 + receiver.index,
            (100 + receiver.index, 200 + sender.index),
            underlay(sender.index).packed,
            underlay(receiver.index).packed,
            suite=suite,
            udp=(underlay(sender.index), underlay(receiver.index)),
            tfc_pad_to=tfc_pad_to,
        )
        sender.out_link[receiver.index] = ends.outbound
        receiver.in_link[sender.index] = ends.inbound
        outward = policy(PolicyDirection.OUT, sender.overlay, receiver.overlay, ends.outbound)
        inward = policy(PolicyDirection.IN, sender.overlay, receiver.overlay, ends.inbound)
        sender.engine.install(IpsecConfiguration((ends.outbound,), (outward,)))
        receiver.engine.install(IpsecConfiguration((ends.inbound,), (inward,), (receiver.overlay,)))


def build_circuit(
    hops: int,
    *,
    inner: bytes = INNER_V4,
    bob: bytes = BOB_V4,
    suite: int = 3,
    link_suite: int = 3,
    tfc_pad_to: int = 0,
) -> Circuit:
    """Install a whole circuit; ``mallory`` has a link with every host and no circuit."""
    hosts = [Host(i, UserspaceEngine(rng=Random(i))) for i in range(hops + 2)]
    for i in range(hops):
        connect(hosts[i], hosts[i + 1], suite=link_suite, tfc_pad_to=tfc_pad_to)
    for host in hosts[:-1]:
        connect(host, hosts[-1], suite=link_suite)
    forward, backward = _onions(hops, suite)
    configurations = [_source(hosts, forward, backward, inner, bob)]
    configurations += [
        _relay(hosts, i, forward[i - 1].inbound, backward[i - 1].outbound) for i in range(1, hops)
    ]
    configurations.append(_exit(hosts, hops, forward[-1].inbound, backward[-1].outbound, inner))
    for host, configuration in zip(hosts, configurations, strict=False):
        host.engine.install(configuration)
    return Circuit(hosts, inner, bob, forward, backward, configurations)


def _onions(hops: int, suite: int) -> tuple[list[SaEnds], list[SaEnds]]:
    forward, backward = [], []
    for i in range(1, hops + 1):
        c, v = circuit_address(i - 1), overlay_address(i)
        forward.append(sa_ends(0x2000 + i, (300 + i, 300 + i), c, v, suite=suite))
        backward.append(sa_ends(0x3000 + i, (400 + i, 400 + i), v, c, suite=suite))
    return forward, backward


def _source(
    hosts: list[Host], forward: list[SaEnds], backward: list[SaEnds], inner: bytes, bob: bytes
) -> IpsecConfiguration:
    alice = hosts[0]
    out_link, in_link = alice.out_link[1], alice.in_link[1]
    onward = [ends.outbound for ends in forward]
    homeward = [ends.inbound for ends in backward]
    policies = [policy(PolicyDirection.OUT, inner, bob, *reversed(onward), out_link)]
    for i in range(len(forward)):
        c, v = circuit_address(i), overlay_address(i + 1)
        # Circuit control with hop i + 1: inside every tunnel up to it.
        policies.append(
            policy(PolicyDirection.OUT, c, v, *reversed(onward[: i + 1]), out_link, protocol=UDP)
        )
        policies.append(policy(PolicyDirection.IN, v, c, *reversed(homeward[: i + 1]), in_link))
    policies.append(policy(PolicyDirection.IN, None, inner, *reversed(homeward), in_link))
    addresses = (*(circuit_address(i) for i in range(len(forward))), inner)
    return IpsecConfiguration((*onward, *homeward), tuple(policies), addresses)


def _control(
    i: int, f: SecurityAssociation, b: SecurityAssociation, hosts: list[Host]
) -> tuple[SecurityPolicy, ...]:
    c, v = circuit_address(i - 1), overlay_address(i)
    in_link, out_link = hosts[i].in_link[i - 1], hosts[i].out_link[i - 1]
    return (
        policy(PolicyDirection.IN, c, v, f, in_link),
        policy(PolicyDirection.OUT, v, c, b, out_link),
    )


def _relay(
    hosts: list[Host], i: int, f: SecurityAssociation, b: SecurityAssociation
) -> IpsecConfiguration:
    here, c, onward = hosts[i], circuit_address(i), overlay_address(i + 1)
    policies = (
        policy(PolicyDirection.FWD, c, onward, f, here.in_link[i - 1]),
        policy(PolicyDirection.OUT, c, onward, here.out_link[i + 1]),
        policy(PolicyDirection.FWD, None, c, here.in_link[i + 1]),
        policy(PolicyDirection.OUT, None, c, b, here.out_link[i - 1]),
        *_control(i, f, b, hosts),
    )
    return IpsecConfiguration((f, b), policies)


def _exit(
    hosts: list[Host], n: int, f: SecurityAssociation, b: SecurityAssociation, inner: bytes
) -> IpsecConfiguration:
    here = hosts[n]
    policies = (
        policy(PolicyDirection.FWD, inner, None, f, here.in_link[n - 1]),
        policy(PolicyDirection.OUT, None, inner, b, here.out_link[n - 1]),
        *_control(n, f, b, hosts),
    )
    return IpsecConfiguration((f, b), policies)
