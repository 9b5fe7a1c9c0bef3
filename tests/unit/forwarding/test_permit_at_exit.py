"""What an exit lets out: its policy per packet, never itself, never forbidden ranges."""

from __future__ import annotations

import ipaddress

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_LSRR
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting
from scapy.packet import Packet, Raw

from overlay.exit_policy import ExitPolicy, ExitRule
from overlay.forwarding.standard import MAX_CACHED_DECISIONS, StandardRules, StandardSettings

WEB = ExitPolicy((ExitRule(True, ipaddress.ip_network("198.51.101.0/24"), 443, 443),))
EVERYWHERE = ipaddress.ip_network("0.0.0.0/0")
ALL = ExitPolicy(
    (
        ExitRule(accept=False, network=EVERYWHERE, first_port=25, last_port=25),
        ExitRule(accept=True, network=EVERYWHERE),
        ExitRule(accept=True, network=ipaddress.ip_network("::/0")),
    )
)
OWN = frozenset((bytes((203, 0, 114, 1)), ipaddress.ip_address("2a00:db8::1").packed))


def verdict(policy: ExitPolicy | None, packet: Packet) -> str:
    """``passed``, or the name of the counter of the drop."""
    rules = StandardRules(StandardSettings(), policy, lambda: OWN)
    raw = bytes(packet)
    passed = rules.at_exit([raw])
    (name,) = (name for name, count in rules.counters().items() if count)
    if name == "permitted":
        assert passed == [raw]
        return "passed"
    assert passed == []
    return name


def to(destination: str) -> Packet:
    if ":" in destination:
        return IPv6(src="fd00::7", dst=destination)
    return IP(src="100.64.0.7", dst=destination)


def test_a_node_that_is_no_exit_lets_nothing_out() -> None:
    assert verdict(None, to("198.51.101.9") / TCP(dport=443)) == "dropped_exit_policy"


@pytest.mark.parametrize(
    ("policy", "packet", "expected"),
    [
        (WEB, to("198.51.101.9") / TCP(dport=443), "passed"),
        (WEB, to("198.51.101.9") / UDP(dport=443), "passed"),
        (WEB, to("198.51.101.9") / TCP(dport=80), "dropped_exit_policy"),
        (WEB, to("198.51.102.9") / TCP(dport=443), "dropped_exit_policy"),
        (WEB, to("198.51.101.9") / ICMP(), "dropped_exit_policy"),
        (ALL, to("198.51.101.9") / ICMP(), "passed"),
        (ALL, to("198.51.101.9") / TCP(dport=25), "dropped_exit_policy"),
        (ALL, to("2a00:db8::9") / TCP(dport=25), "passed"),
        (ALL, to("203.0.114.1") / TCP(dport=443), "dropped_local_address"),
        (ALL, to("2a00:db8::1") / TCP(dport=443), "dropped_local_address"),
        (ALL, to("127.0.0.1") / TCP(dport=443), "dropped_exit_policy"),
        (ALL, to("10.1.2.3") / TCP(dport=443), "dropped_exit_policy"),
        (ALL, to("169.254.169.254") / TCP(dport=80), "dropped_exit_policy"),
        (ALL, to("224.0.0.1") / UDP(dport=80), "dropped_exit_policy"),
        (ALL, to("::1") / TCP(dport=80), "dropped_exit_policy"),
        (ALL, to("fe80::1") / TCP(dport=80), "dropped_exit_policy"),
        (ALL, to("::ffff:127.0.0.1") / TCP(dport=80), "dropped_exit_policy"),
        (ALL, to("fd6d:6978::1") / UDP(dport=80), "dropped_exit_policy"),
    ],
)
def test_policy_decides_per_destination_protocol_and_port(
    policy: ExitPolicy, packet: Packet, expected: str
) -> None:
    assert verdict(policy, packet) == expected


def test_forbidden_range_opened_by_name_is_reached() -> None:
    network = ipaddress.ip_network("10.1.0.0/16")
    policy = ExitPolicy((ExitRule(accept=True, network=network),), allowed_forbidden=(network,))
    assert verdict(policy, to("10.1.2.3") / TCP(dport=80)) == "passed"
    assert verdict(policy, to("10.2.2.3") / TCP(dport=80)) == "dropped_exit_policy"


def test_fragment_without_ports_needs_every_port_permitted() -> None:
    def later(destination: str) -> Packet:
        return IP(src="100.64.0.7", dst=destination, frag=3, proto=17) / Raw(bytes(64))

    whole = ExitPolicy((ExitRule(accept=True, network=EVERYWHERE),))
    assert verdict(whole, later("198.51.101.9")) == "passed"
    assert verdict(WEB, later("198.51.101.9")) == "dropped_exit_policy"
    assert verdict(ALL, later("198.51.101.9")) == "dropped_exit_policy"
    fragment = to("2a00:db8::9") / IPv6ExtHdrFragment(offset=4, nh=6) / Raw(bytes(64))
    assert verdict(ALL, fragment) == "passed"


def test_first_fragment_is_judged_by_its_port() -> None:
    first = IP(src="100.64.0.7", dst="198.51.101.9", flags="MF") / UDP(dport=443) / bytes(64)
    assert verdict(WEB, first) == "passed"
    first[UDP].dport = 53
    assert verdict(WEB, first) == "dropped_exit_policy"


def test_headers_that_steer_the_exits_kernel_are_refused() -> None:
    route = IP(src="100.64.0.7", dst="198.51.101.9", options=[IPOption_LSRR(routers=["10.0.0.1"])])
    assert verdict(ALL, route / TCP(dport=443)) == "dropped_ip_options"
    hop = to("2a00:db8::9") / IPv6ExtHdrHopByHop() / TCP(dport=443)
    assert verdict(ALL, hop) == "dropped_ip_options"
    segment = to("2a00:db8::9") / IPv6ExtHdrRouting(addresses=["2a00:db8::1"]) / TCP(dport=443)
    assert verdict(ALL, segment) == "dropped_routing_header"


def test_a_cached_decision_is_the_same_decision() -> None:
    rules = StandardRules(StandardSettings(), WEB, frozenset)
    good, bad = (bytes(to("198.51.101.9") / TCP(dport=port)) for port in (443, 80))
    assert rules.at_exit([good, bad] * 3) == [good] * 3
    assert rules.counters() == {"permitted": 3, "dropped_exit_policy": 3}


def test_a_new_local_address_is_refused_at_once() -> None:
    local: set[bytes] = set()
    rules = StandardRules(StandardSettings(), WEB, lambda: frozenset(local))
    packet = bytes(to("198.51.101.9") / TCP(dport=443))
    assert rules.at_exit([packet]) == [packet]
    local.add(packet[16:20])
    assert rules.at_exit([packet]) == []


class CountingPolicy(ExitPolicy):
    """A policy that counts how often it is asked."""

    asked = 0

    def permits(self, destination: object, port: int | None = None) -> bool:
        CountingPolicy.asked += 1
        return True


def test_decisions_are_cached_and_the_cache_is_bounded() -> None:
    template = bytearray(bytes(to("198.51.101.9") / UDP(dport=1)))
    packets = []
    for port in range(MAX_CACHED_DECISIONS + 1):
        template[22:24] = port.to_bytes(2, "big")
        packets.append(bytes(template))
    rules = StandardRules(StandardSettings(), CountingPolicy(()), frozenset)
    rules.at_exit(packets[:-1])
    rules.at_exit(packets[:-1])
    assert CountingPolicy.asked == MAX_CACHED_DECISIONS
    rules.at_exit(packets[-1:])  # drops the oldest decision
    rules.at_exit(packets[1:])
    assert CountingPolicy.asked == MAX_CACHED_DECISIONS + 1
    rules.at_exit(packets[:1])
    assert CountingPolicy.asked == MAX_CACHED_DECISIONS + 2
