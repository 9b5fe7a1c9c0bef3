"""A source takes out of a circuit what answers its own packets, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NS,
    ICMPv6PacketTooBig,
    IPv6,
    IPv6ExtHdrFragment,
)
from scapy.packet import Raw

from overlay.forwarding.asked import MAX_REMEMBERED, AskedFor

OWN, PEER = {4: "100.64.1.2", 6: "fd99::2"}, {4: "203.0.113.10", 6: "2001:db8:113::10"}
LAYER = {4: IP, 6: IPv6}
VERSIONS = pytest.mark.parametrize("version", [4, 6])


def out(version, upper):
    return bytes(LAYER[version](src=OWN[version], dst=PEER[version]) / upper)


def back(version, upper, **fields):
    return bytes(LAYER[version](src=PEER[version], dst=OWN[version], **fields) / upper)


def passed(left, arrived):
    asked = AskedFor()
    asked.left(left)
    return asked.answers(arrived)


@VERSIONS
@pytest.mark.parametrize("layer", [TCP, UDP])
def test_an_answer_has_both_addresses_and_both_ports(version, layer):
    question = out(version, layer(sport=4000, dport=53) / Raw(b"?"))
    answer = back(version, layer(sport=53, dport=4000) / Raw(b"!"))
    others = [
        back(version, layer(sport=53, dport=22)),
        back(version, layer(sport=54, dport=4000)),
        back(version, (UDP if layer is TCP else TCP)(sport=53, dport=4000)),
        bytes(LAYER[version](src=OWN[version], dst=OWN[version]) / layer(sport=53, dport=4000)),
        question,
    ]
    assert passed([question], [answer, *others]) == [answer]
    assert passed([], [answer]) == []


@VERSIONS
def test_an_echo_reply_has_the_identifier_of_a_request(version):
    request, reply = ((ICMP, ICMP), (ICMPv6EchoRequest, ICMPv6EchoReply))[version == 6]
    kinds = ({"type": 8}, {"type": 0}) if version == 4 else ({}, {})
    question = out(version, request(id=7, **kinds[0]))
    answer = back(version, reply(id=7, **kinds[1]))
    asked_back = back(version, request(id=7, **kinds[0]))
    other = back(version, reply(id=8, **kinds[1]))
    assert passed([question], [answer, other, asked_back]) == [answer]


@VERSIONS
def test_an_error_quotes_what_left(version):
    question = out(version, UDP(sport=4000, dport=53) / Raw(bytes(64)))
    error = ICMP(type=3, code=4) if version == 4 else ICMPv6PacketTooBig(mtu=1280)
    router = LAYER[version](src={4: "198.51.100.1", 6: "2001:db8::1"}[version], dst=OWN[version])
    of_ours = bytes(router / error / Raw(question[:48] if version == 6 else question[:28]))
    of_others = bytes(router / error / Raw(out(version, UDP(sport=22, dport=53))))
    assert passed([question], [of_ours, of_others]) == [of_ours]


def test_nothing_else_is_taken():
    ports = UDP(sport=4000, dport=53)
    unasked = [
        b"",
        b"\x45",
        back(4, ICMP(type=5) / Raw(bytes(28))),
        back(4, ICMP(type=13)),
        back(6, ICMPv6ND_NS(tgt=OWN[6])),
        bytes(IP(src=PEER[4], dst=OWN[4], proto=47) / Raw(bytes(20))),
    ]
    assert passed([out(4, ports), out(6, ports)], unasked) == []


def test_fragments_of_answers_pass():
    question = out(4, UDP(sport=4000, dport=53))
    answer = IP(back(4, UDP(sport=53, dport=4000) / Raw(bytes(3000))))
    pieces = [bytes(each) for each in fragment(answer, 1000)]
    assert passed([question], pieces) == pieces
    assert passed([], pieces) == pieces[1:], "without the first one they are no packet"
    first6 = back(6, IPv6ExtHdrFragment(m=1, nh=17, id=1) / UDP(sport=53, dport=4000) / bytes(8))
    later6 = back(6, IPv6ExtHdrFragment(offset=2, nh=17, id=1) / Raw(bytes(8)))
    assert passed([out(6, UDP(sport=4000, dport=53))], [first6, later6]) == [first6, later6]
    assert passed([], [first6]) == []


def test_the_memory_is_bounded_and_what_is_in_use_stays():
    asked = AskedFor(most=100)
    in_use = out(4, TCP(sport=1, dport=80))
    for port in range(1000, 2000):
        asked.left([in_use, out(4, UDP(sport=port, dport=53))])
        assert len(asked) <= 200
    assert asked.answers([back(4, TCP(sport=80, dport=1))])
    assert not asked.answers([back(4, UDP(sport=53, dport=1000))])
    assert MAX_REMEMBERED >= 10_000


@given(st.binary(max_size=120), st.sampled_from([b"", b"\x45", b"\x60", b"\x4f", b"\x65"]))
def test_any_bytes_are_survived(data, start):
    asked = AskedFor()
    asked.left([start + data])
    assert asked.answers([start + data]) in ([], [start + data])
