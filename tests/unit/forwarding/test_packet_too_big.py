"""ICMP answers to the local application, judged by scapy."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrFragment,
)
from scapy.packet import Packet

from overlay.forwarding.too_big import packet_too_big

V4 = {"src": "100.64.0.7", "dst": "198.51.100.9"}
V6 = {"src": "fd00::7", "dst": "2001:db8::9"}


def test_ipv4_answer_names_the_mtu_and_quotes_the_packet() -> None:
    packet = bytes(IP(**V4, flags="DF") / TCP(sport=4000, dport=80, seq=77) / bytes(1400))
    raw = packet_too_big(packet, 1058)
    assert raw is not None
    answer = IP(raw)
    assert (answer.src, answer.dst) == (V4["dst"], V4["src"])
    assert (answer[ICMP].type, answer[ICMP].code, answer[ICMP].nexthopmtu) == (3, 4, 1058)
    assert raw[28:] == packet[: len(raw) - 28]
    assert len(raw) == 576
    for layer in (answer, answer[ICMP]):
        layer.delfieldval("chksum")
    assert bytes(answer) == raw


def test_ipv6_answer_names_the_mtu_and_quotes_the_packet() -> None:
    packet = bytes(IPv6(**V6) / TCP(sport=4000, dport=80, seq=77) / bytes(1400))
    raw = packet_too_big(packet, 1300)
    assert raw is not None
    answer = IPv6(raw)
    assert (answer.src, answer.dst) == (V6["dst"], V6["src"])
    assert answer[ICMPv6PacketTooBig].mtu == 1300
    assert raw[48:] == packet[: len(raw) - 48]
    assert len(raw) == 1280
    answer[ICMPv6PacketTooBig].delfieldval("cksum")
    assert bytes(answer) == raw


def test_ipv6_never_announces_less_than_its_minimum() -> None:
    fits = bytes(IPv6(**V6) / UDP() / bytes(1280 - 48))
    assert packet_too_big(fits, 1058) is None
    raw = packet_too_big(bytes(IPv6(**V6) / UDP() / bytes(1281 - 48)), 1058)
    assert raw is not None
    assert IPv6(raw)[ICMPv6PacketTooBig].mtu == 1280


@pytest.mark.parametrize("size", [1057, 1058])
def test_packet_that_fits_has_no_answer(size: int) -> None:
    assert packet_too_big(bytes(IP(**V4, flags="DF") / UDP() / bytes(size - 28)), 1058) is None


def test_one_byte_over_the_limit_has_an_answer() -> None:
    assert packet_too_big(bytes(IP(**V4, flags="DF") / UDP() / bytes(1059 - 28)), 1058) is not None


@pytest.mark.parametrize(
    "packet",
    [
        IP(**V4) / UDP() / bytes(1400),  # may be fragmented
        IP(**V4, flags="DF") / ICMP(type=3) / bytes(1400),
        IP(**V4, flags="DF", frag=3, proto=17) / bytes(1400),
        IP(src="0.0.0.0", dst="198.51.100.9", flags="DF") / UDP() / bytes(1400),
        IP(src="100.64.0.7", dst="224.0.0.5", flags="DF") / UDP() / bytes(1400),
        IPv6(**V6) / ICMPv6TimeExceeded() / bytes(1400),
        IPv6(**V6) / IPv6ExtHdrFragment(offset=5, nh=17) / bytes(1400),
        IPv6(src="fd00::7", dst="ff02::1") / UDP() / bytes(1400),
    ],
)
def test_what_must_not_be_answered_is_not(packet: Packet) -> None:
    assert packet_too_big(bytes(packet), 1058) is None


def test_echo_requests_are_answered() -> None:
    assert packet_too_big(bytes(IP(**V4, flags="DF") / ICMP() / bytes(1400)), 1058) is not None
    assert packet_too_big(bytes(IPv6(**V6) / ICMPv6EchoRequest() / bytes(1400)), 1058) is not None
