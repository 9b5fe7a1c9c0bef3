"""The compiled engine against RFC 4301 read as a linear search."""

import struct
from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.addresses import CIRCUIT_PREFIX, OVERLAY_PREFIX, Endpoint
from overlay.ipsec.interface import (
    ANY_V6,
    Drop,
    IpsecConfiguration,
    PolicyDirection,
    Prefix,
    SecurityAssociation,
    SecurityPolicy,
    Selector,
    Spi,
    Template,
    UdpEncapsulation,
)
from overlay.ipsec.userspace.engine import UserspaceEngine
from overlay.sensitive import SecretBytes

NOW = 1.0
PROTOCOLS = (6, 17, 50)
OUTSIDE = bytes.fromhex("20010db8") + bytes(12)
ADDRESSES = [
    *(
        prefix + bytes(11) + bytes((i,))
        for prefix in (OVERLAY_PREFIX, CIRCUIT_PREFIX)
        for i in (1, 2)
    ),
    OUTSIDE,
]
PEER, HERE = Endpoint("192.0.2.1", 4500), Endpoint("192.0.2.2", 4500)


def association(
    spi: int, source: bytes, destination: bytes, *, inbound: bool, link: bool
) -> SecurityAssociation:
    return SecurityAssociation(
        spi=Spi(spi),
        reqid=spi,
        source=source,
        destination=destination,
        suite=1,
        keymat=SecretBytes(Random(spi).randbytes(20)),
        inbound=inbound,
        encapsulation=UdpEncapsulation(PEER, HERE) if link else None,
    )


def both(spi: int, source: bytes, destination: bytes, *, link: bool = False):
    """The sending and the receiving value of one SA."""
    return tuple(
        association(spi, source, destination, inbound=inbound, link=link)
        for inbound in (False, True)
    )


LINKS = [both(0x100 + i, PEER.packed, HERE.packed, link=True) for i in range(2)]
ONIONS = [both(0x200 + i, ADDRESSES[3], ADDRESSES[0], link=False) for i in range(2)]
ONWARD = association(0x300, HERE.packed, PEER.packed, inbound=False, link=True)


def template(sa: SecurityAssociation) -> Template:
    return Template(sa.source, sa.destination, sa.reqid)


CHAINS = [(template(link[1]),) for link in LINKS] + [
    (template(onion[1]), template(link[1])) for onion in ONIONS for link in LINKS
]
prefixes = st.builds(
    lambda address, length: Prefix(address, length),
    st.sampled_from(ADDRESSES),
    st.sampled_from([0, 16, 32, 127, 128]),
) | st.just(ANY_V6)
selectors = st.builds(Selector, prefixes, prefixes, st.sampled_from([None, *PROTOCOLS]))
policies = st.one_of(
    st.builds(
        SecurityPolicy,
        st.sampled_from([PolicyDirection.IN, PolicyDirection.FWD]),
        selectors,
        st.sampled_from(CHAINS),
    ),
    st.builds(
        SecurityPolicy, st.just(PolicyDirection.OUT), selectors, st.just((template(ONWARD),))
    ),
)


def identity(policy: SecurityPolicy) -> object:
    """What makes two policies the same one: direction and the set of packets selected."""

    def bits(prefix: Prefix) -> tuple[int, int]:
        return prefix.length, int.from_bytes(prefix.network, "big") >> 128 - prefix.length

    selector = policy.selector
    return (
        policy.direction,
        bits(selector.source),
        bits(selector.destination),
        selector.protocol,
    )


@dataclass
class LinearSpd:
    """Search all policies, the most specific first."""

    policies: list[SecurityPolicy]

    def find(self, direction: PolicyDirection, source: bytes, destination: bytes, protocol: int):
        matching = [
            policy
            for policy in self.policies
            if policy.direction is direction
            and policy.selector.matches(source, destination, protocol)
        ]
        if not matching:
            return None
        return max(
            matching,
            key=lambda p: (
                p.selector.destination.length,
                p.selector.source.length,
                p.selector.protocol is not None,
            ),
        ).templates

    def verdict(self, local, chain, source, destination, protocol) -> str | Drop:
        """What becomes of a packet that came through ``chain`` and is no ESP for us."""
        direction = PolicyDirection.IN if destination in local else PolicyDirection.FWD
        wanted = self.find(direction, source, destination, protocol)
        if wanted is None:
            return Drop.IN_NO_POLS
        if wanted != chain:
            return Drop.IN_TMPL_MISMATCH
        if direction is PolicyDirection.IN:
            return "host" if destination == OUTSIDE else "control"
        if destination == OUTSIDE:
            return "exit"
        onward = self.find(PolicyDirection.OUT, source, destination, protocol)
        return Drop.OUT_POL_BLOCK if onward is None else "network"


class Sender:
    """Seals as a peer would: innermost onion first, the link last."""

    def __init__(self) -> None:
        self.engine = UserspaceEngine(rng=Random(3))
        every = (*(sa for sa, _ in LINKS), *(sa for sa, _ in ONIONS))
        self.engine.install(IpsecConfiguration(every, ()))

    def send(self, chain: tuple[Template, ...], packet: bytes):
        out = IpsecConfiguration(
            (), (SecurityPolicy(PolicyDirection.OUT, Selector(ANY_V6, ANY_V6), chain),)
        )
        self.engine.install(out)
        sent = self.engine.process_outbound([packet], NOW).to_network
        self.engine.remove(out)
        return sent


def ipv6(source: bytes, destination: bytes, protocol: int) -> bytes:
    payload = bytes(8)
    return (
        struct.pack(">IHBB", 0x60000000, len(payload), protocol, 64)
        + source
        + destination
        + payload
    )


packets = st.tuples(
    st.sampled_from(CHAINS),
    st.sampled_from(ADDRESSES),
    st.sampled_from(ADDRESSES),
    st.sampled_from(PROTOCOLS),
)


@pytest.mark.slow
@settings(max_examples=60)
@given(
    st.lists(policies, max_size=12, unique_by=identity),
    st.sets(st.sampled_from(ADDRESSES[1:]), max_size=2),
    st.lists(packets, min_size=1, max_size=8),
    st.data(),
)
def test_the_compiled_engine_decides_as_a_linear_search(installed, addresses, arriving, data):
    local = frozenset({ADDRESSES[0], *addresses})
    engine, sender = UserspaceEngine(rng=Random(2)), Sender()
    inbound = (*(sa for _, sa in LINKS), *(sa for _, sa in ONIONS))
    engine.install(IpsecConfiguration((*inbound, ONWARD), tuple(installed), tuple(local)))
    model = LinearSpd(list(installed))
    for chain, source, destination, protocol in arriving * 2:
        if protocol == 50 and destination in local:
            continue
        before = engine.drops()
        result = engine.process_inbound(
            sender.send(chain, ipv6(source, destination, protocol)), NOW
        )
        expected = model.verdict(local, chain, source, destination, protocol)
        assert outcome(result, before, engine.drops()) == expected
        if model.policies and data.draw(st.integers(0, 5)) == 0:
            gone = model.policies.pop()
            engine.remove(IpsecConfiguration((), (gone,)))


def outcome(result, before: dict[Drop, int], after: dict[Drop, int]) -> str | Drop:
    kept = {
        "network": result.to_network,
        "control": result.to_control,
        "host": result.to_host,
        "exit": result.to_exit,
    }
    found: list[str | Drop] = [name for name, packets in kept.items() if packets]
    found += [drop for drop in after if after[drop] != before.get(drop, 0)]
    (only,) = found
    return only
