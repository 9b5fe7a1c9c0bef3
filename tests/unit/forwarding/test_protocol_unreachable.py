"""Answers to programs whose packets no circuit or exit carries, judged by scapy."""

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6ParamProblem, IPv6, IPv6ExtHdrFragment

from overlay.forwarding.icmp_errors import prohibited, protocol_unreachable

V4 = {"src": "100.64.0.7", "dst": "198.51.100.9"}
V6 = {"src": "fd00::7", "dst": "2001:db8::9"}
SCTP = 132


def test_ipv4_answer_is_protocol_unreachable_from_the_destination():
    packet = bytes(IP(**V4, proto=SCTP) / bytes(40))
    raw = protocol_unreachable(packet)
    answer = IP(raw)
    assert (answer.src, answer.dst) == (V4["dst"], V4["src"])
    assert (answer[ICMP].type, answer[ICMP].code) == (3, 2)
    assert raw[28:] == packet
    for layer in (answer, answer[ICMP]):
        layer.delfieldval("chksum")
    assert bytes(answer) == raw


def test_ipv6_answer_points_at_the_next_header():
    packet = bytes(IPv6(**V6, nh=SCTP) / bytes(40))
    raw = protocol_unreachable(packet)
    answer = IPv6(raw)
    assert (answer.src, answer.dst) == (V6["dst"], V6["src"])
    problem = answer[ICMPv6ParamProblem]
    assert (problem.type, problem.code, problem.ptr) == (4, 1, 6)
    assert raw[48:] == packet
    problem.delfieldval("cksum")
    assert bytes(answer) == raw


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"\x45",
        b"\x60",
        bytes(IP(**V4) / UDP()),
        bytes(IP(**V4, proto=SCTP) / bytes(40))[:-1],
        bytes(IP(**V4, proto=SCTP, chksum=1) / bytes(40)),
        bytes(IP(**V4, proto=SCTP, frag=9) / bytes(40)),
        bytes(IP(src=V4["src"], dst="224.0.0.1", proto=SCTP) / bytes(40)),
        bytes(IPv6(**V6) / UDP()),
        bytes(IPv6(**V6, nh=SCTP) / bytes(40))[:-1],
        bytes(IPv6(**V6) / IPv6ExtHdrFragment(offset=9, nh=SCTP) / bytes(40)),
        bytes(IPv6(src=V6["src"], dst="ff02::1", nh=SCTP) / bytes(40)),
    ],
)
def test_what_is_carried_damaged_partial_or_for_a_group_is_not_answered(packet):
    assert protocol_unreachable(packet) is None


def test_exits_refusal_is_told_as_prohibited_from_the_destination():
    answer = IP(prohibited(bytes(IP(**V4) / TCP(dport=25))))
    assert (answer.src, answer.dst) == (V4["dst"], V4["src"])
    assert (answer[ICMP].type, answer[ICMP].code) == (3, 13)
    answer = IPv6(prohibited(bytes(IPv6(**V6) / TCP(dport=25))))
    assert (answer.src, answer.dst) == (V6["dst"], V6["src"])
    assert (answer[ICMPv6DestUnreach].type, answer[ICMPv6DestUnreach].code) == (1, 1)


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        bytes(IP(**V4) / ICMP(type=3, code=13) / bytes(28)),
        bytes(IPv6(**V6) / ICMPv6DestUnreach(code=1) / bytes(48)),
        bytes(IP(**V4, frag=9) / bytes(40)),
        bytes(IP(**V4, options=[b"\x01" * 4]) / UDP()),
        bytes(IP(src=V4["src"], dst="224.0.0.1") / UDP()),
    ],
)
def test_error_fragment_group_or_damaged_packet_is_not_answered_by_an_exit(packet):
    assert prohibited(packet) is None
