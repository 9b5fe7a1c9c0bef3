"""Forwarding rules over generated packets; scapy is the judge of what comes out."""

from __future__ import annotations

import ipaddress
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet, Raw

from overlay.exit_policy import ExitPolicy, ExitRule
from overlay.forwarding.identification import permuted_identification
from overlay.forwarding.standard import StandardRules, StandardSettings
from overlay.forwarding.too_big import packet_too_big
from overlay.sensitive import SecretBytes

FAST = settings(max_examples=60, deadline=None)
SETTINGS = StandardSettings(path_mtu=1038)
KEY = SecretBytes(bytes(range(16)))

ports = st.integers(0, 65535)
public_v4 = st.integers(0, 2**32 - 1).map(lambda value: str(ipaddress.IPv4Address(value)))
any_v6 = st.integers(0, 2**128 - 1).map(lambda value: str(ipaddress.IPv6Address(value)))

ipv4 = st.builds(
    lambda src, dst, ttl, tos, ident, flags: IP(
        src=src, dst=dst, ttl=ttl, tos=tos, id=ident, flags=flags
    ),
    public_v4,
    public_v4,
    st.integers(0, 255),
    st.integers(0, 255),
    ports,
    st.sampled_from(["", "DF", "DF+evil"]),
)
ipv6 = st.builds(
    lambda src, dst, hlim, tc, fl: IPv6(src=src, dst=dst, hlim=hlim, tc=tc, fl=fl),
    any_v6,
    any_v6,
    st.integers(0, 255),
    st.integers(0, 255),
    st.integers(0, 2**20 - 1),
)
tcp_options = st.lists(
    st.sampled_from(
        [
            ("MSS", 1460),
            ("MSS", 400),
            ("Timestamp", (1, 2)),
            ("NOP", None),
            ("SAckOK", b""),
            ("WScale", 7),
            (253, b"cookie"),
        ]
    ),
    max_size=4,  # four times ten bytes fill the 40 that a TCP header has for options
)
tcp = st.builds(
    lambda sport, dport, flags, options: TCP(
        sport=sport, dport=dport, flags=flags, options=options
    ),
    ports,
    ports,
    st.sampled_from(["S", "SA", "SEC", "A", "PA", "FA", "R"]),
    tcp_options,
)
udp = st.builds(lambda sport, dport: UDP(sport=sport, dport=dport), ports, ports)
payloads = st.binary(max_size=90).map(Raw)
packets = st.builds(
    lambda ip, upper, payload: ip / upper / payload, ipv4 | ipv6, tcp | udp, payloads
)


def rules(policy: ExitPolicy | None = None) -> StandardRules:
    return StandardRules(SETTINGS, policy, frozenset, rng=random.Random(1))


def parsed(raw: bytes) -> Packet:
    return IP(raw) if raw[0] >> 4 == 4 else IPv6(raw)


@pytest.mark.slow
@FAST
@given(packets)
def test_addresses_ports_and_payload_survive_and_every_checksum_is_right(packet: Packet) -> None:
    before = parsed(bytes(packet))
    (raw,) = rules().at_source([bytes(packet)])
    after = parsed(raw)
    assert (after.src, after.dst) == (before.src, before.dst)
    upper = TCP if TCP in before else UDP
    assert (after[upper].sport, after[upper].dport) == (before[upper].sport, before[upper].dport)
    assert bytes(after[upper].payload) == bytes(before[upper].payload)
    for layer in (after, after[upper]):
        if "chksum" in layer.fields:
            layer.delfieldval("chksum")
    assert bytes(after) == raw


@pytest.mark.slow
@FAST
@given(packets)
def test_two_hosts_that_differ_in_telling_fields_alone_send_the_same(packet: Packet) -> None:
    other = packet.copy()
    if IP in other:
        packet[IP].flags = other[IP].flags = "DF"
        other[IP].ttl, other[IP].tos, other[IP].id = 255, 0x2E, 4711
    else:
        other[IPv6].hlim, other[IPv6].tc, other[IPv6].fl = 255, 0x2E, 4711
    first, second = rules().at_source([bytes(packet), bytes(other)])
    assert first == second


@pytest.mark.slow
@FAST
@given(packets)
def test_normalising_twice_changes_only_identifications_that_serve(packet: Packet) -> None:
    (once,) = rules().at_source([bytes(packet)])
    (twice,) = rules().at_source([once])
    if IP in packet and not parsed(once).flags.DF:
        before, after = parsed(once), parsed(twice)
        before.id = after.id = 0
        before.delfieldval("chksum")
        after.delfieldval("chksum")
        assert bytes(before) == bytes(after)
    else:
        assert once is twice or once == twice


networks_v4 = st.sampled_from(["0.0.0.0/0", "198.51.101.0/24", "198.51.101.128/25", "10.0.0.0/8"])
networks_v6 = st.sampled_from(["::/0", "2a00:db8::/32", "2a00:db8::/64", "fc00::/7"])
exit_rules = st.builds(
    lambda accept, network, low, high: ExitRule(
        accept=accept,
        network=ipaddress.ip_network(network),
        first_port=min(low, high),
        last_port=max(low, high),
    ),
    st.booleans(),
    networks_v4 | networks_v6,
    st.sampled_from([0, 80, 443]),
    st.sampled_from([80, 443, 65535]),
)
policies = st.builds(
    lambda listed, opened: ExitPolicy(
        tuple(listed), tuple(ipaddress.ip_network(network) for network in opened)
    ),
    st.lists(exit_rules, max_size=5),
    st.lists(st.sampled_from(["10.0.0.0/8", "fc00::/7"]), max_size=1),
)
destinations = st.sampled_from(
    [
        *("198.51.101.9", "198.51.101.200", "10.1.2.3", "192.0.2.1", "127.0.0.1"),
        *("2a00:db8::9", "2a00:db8:1::9", "fd00::9", "::1"),
    ]
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(policies, destinations, st.sampled_from([TCP, UDP, None]), st.sampled_from([25, 80, 443]))
def test_the_permitted_set_equals_the_exit_policy(
    policy: ExitPolicy, destination: str, upper: type[Packet] | None, port: int
) -> None:
    ip = IPv6(src="fd00::7", dst=destination) if ":" in destination else IP(dst=destination)
    packet = bytes(ip / upper(dport=port)) if upper else bytes(ip / Raw(bytes(8)))
    if upper is None:  # a protocol without ports
        packet = _with_protocol(packet, 47)
    expected = policy.permits(ipaddress.ip_address(destination), port if upper else None)
    tested = rules(policy)
    for _ in range(2):  # decided, then remembered
        assert tested.at_exit([packet]) == ([packet] if expected else [])


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(policies, destinations)
def test_a_fragment_passes_only_where_every_port_does(policy: ExitPolicy, destination: str) -> None:
    if ":" in destination:
        head = bytes(IPv6(src="fd00::7", dst=destination, nh=44, plen=72))
        packet = head + bytes((17, 0, 0, 0x40, 0, 0, 0, 1)) + bytes(64)
    else:
        packet = bytes(IP(dst=destination, frag=8, proto=17) / Raw(bytes(64)))
    if rules(policy).at_exit([packet]):
        address = ipaddress.ip_address(destination)
        assert all(policy.permits(address, port) for port in (0, 25, 80, 81, 443, 444, 65535))


def _with_protocol(packet: bytes, protocol: int) -> bytes:
    first = parsed(packet)
    if IP in first:
        first[IP].proto = protocol
        first[IP].delfieldval("chksum")
    else:
        first[IPv6].nh = protocol
    return bytes(first)


@FAST
@given(st.sampled_from([16, 32]), st.data())
def test_the_permutation_of_identifications_never_makes_two_equal(
    bits: int, data: st.DataObject
) -> None:
    values = data.draw(st.sets(st.integers(0, 2**bits - 1), min_size=2, max_size=50))
    permuted = {permuted_identification(KEY, value, bits, b"flow") for value in values}
    assert len(permuted) == len(values)
    assert all(0 <= value < 2**bits for value in permuted)


@pytest.mark.slow
@FAST
@given(packets, st.integers(576, 1500))
def test_a_too_big_answer_quotes_the_packet_and_fits(packet: Packet, mtu: int) -> None:
    raw = bytes(packet / Raw(bytes(1400)))
    answer = packet_too_big(raw, mtu)
    if answer is None:
        return
    quoted_from = 28 if answer[0] >> 4 == 4 else 48
    assert raw.startswith(answer[quoted_from:])
    assert len(answer) <= (576 if quoted_from == 28 else 1280)
    assert parsed(answer).dst == parsed(raw).src
