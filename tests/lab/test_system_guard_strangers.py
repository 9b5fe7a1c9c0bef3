"""A stranger that sends all kinds of packets cannot tell a guarded host from others."""

import itertools
from collections import Counter

import pytest
from stranger import (
    ABSENT,
    FAR,
    GATEWAYS,
    INNER,
    NEAR,
    OTHERS,
    OWN,
    STAND_INS,
    Stranger,
    arp,
    asked,
    connect,
    framed,
    igmp_query,
    solicitation,
)
from test_system_guard_answers import OWNER, SERVICES

from lab.namespaces import Namespace

SOURCES = (FAR, NEAR, OTHERS, STAND_INS)


@pytest.fixture
def outside(laboratory):
    with Namespace("outside") as made:
        yield made


def questions(*, forwards, marks_arp):
    """Return packets from many sources to the host, and to addresses that it may hold."""
    ports = itertools.count(20_000, 50)
    packets = []
    for index, own in enumerate(OWN):
        packets += [each for s in SOURCES for each in asked(s[index], own, next(ports))]
        if index == 0:
            # Without UDP: what is tracked before the address is lent is not translated.
            packets += [p for p in asked(INNER[0], own, next(ports)) if p.payload.name != "UDP"]
        elif forwards:
            continue  # the kernel's own errors about a held IPv6 address come from that address
        for source, ttl in ((FAR, 1), (NEAR, 1), (OTHERS, 1), (GATEWAYS, 64), (STAND_INS, 64)):
            packets += asked(source[index], INNER[index], next(ports), ttl=ttl)
    senders = [GATEWAYS[0], NEAR[0], OTHERS[0], STAND_INS[0], "0.0.0.0"]
    senders += [INNER[0]] if marks_arp else []
    packets += [arp(s, t) for s in senders for t in (OWN[0], INNER[0], ABSENT[0])]
    senders = (GATEWAYS[1], NEAR[1], OTHERS[1], INNER[1], STAND_INS[1], "::")
    packets += [solicitation(s, t) for s in senders for t in (OWN[1], INNER[1], ABSENT[1])]
    return [*packets, *(igmp_query(s[0]) for s in SOURCES)]


@pytest.mark.parametrize(
    ("filter_name", "forwards", "reverse_path"),
    [("nftables Nftables", 1, 0), ("nftables Nftables", 0, 1), ("iptables Iptables", 1, 0)],
)
def test_a_stranger_finds_no_difference(
    namespace, outside, script, filter_name, forwards, reverse_path
):
    connect(
        namespace,
        outside,
        ipv4__ip_forward=forwards,
        ipv6__conf__all__forwarding=forwards,
        ipv4__conf__all__rp_filter=reverse_path,
    )
    assert script(namespace, SERVICES.format(ipv4=OWN[0], ipv6=OWN[1])).said == "ready"
    for program in ("iptables-legacy", "ip6tables-legacy"):
        # Connections that are tracked before there is a guard would not be translated.
        namespace.run([program, "-A", "INPUT", "-m", "conntrack", "--ctstate", "NEW"])
    module, name = filter_name.split()
    marks_arp = name == "Nftables"
    prefixes = (f"{FAR[0]}/32", "2001:db8:113::/64")
    owner = script(
        namespace,
        OWNER.format(module=module, name=name, prefixes=prefixes).replace(
            "pairs = [",
            f"pairs = [(ipaddress.ip_network(p), ipaddress.ip_address(a).packed) "
            f"for p, a in {tuple(zip(NEAR, INNER, strict=True))}] + [",
        ),
    )
    assert owner.said == "ready"
    with Stranger(outside) as stranger:
        frames = framed(questions(forwards=forwards, marks_arp=marks_arp))
        free = stranger.ask(frames)
        assert free.total() > 100
        for state in ("protect", "carry", "kill"):
            if state == "kill":
                owner.kill()
            else:
                assert owner.tell(state) == "done"
            found = stranger.ask(frames)
            assert (state, free - found, found - free) == (state, Counter(), Counter())
