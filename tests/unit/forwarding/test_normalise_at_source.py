"""What leaves the source: judged by scapy's parse and scapy's checksums."""

from __future__ import annotations

import random

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_Router_Alert, fragment
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6MLReport2,
    ICMPv6ND_RS,
    ICMPv6PacketTooBig,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
    RouterAlert,
)
from scapy.layers.sctp import SCTP
from scapy.packet import Packet, Raw

from overlay.forwarding.standard import StandardRules, StandardSettings

V4 = {"src": "100.64.0.7", "dst": "198.51.100.9"}
V6 = {"src": "fd00::7", "dst": "2001:db8::9"}
SETTINGS = StandardSettings(path_mtu=1038)


def rules(seed: int = 1) -> StandardRules:
    return StandardRules(SETTINGS, None, frozenset, rng=random.Random(seed))


def sent(packet: Packet) -> bytes:
    """The one packet that leaves for a circuit."""
    (result,) = rules().at_source([bytes(packet)])
    return result


def refused(packet: Packet | bytes) -> str:
    """The name of the one counter that counted the drop."""
    tested = rules()
    assert tested.at_source([bytes(packet)]) == []
    ((name, count),) = tested.counters().items()
    assert count == 1
    return name


def recomputed(raw: bytes, first: type[Packet]) -> bytes:
    """The same packet with every checksum and length computed by scapy."""
    packet = first(raw)
    layer = packet
    while layer and not isinstance(layer, Raw):
        for name in ("chksum", "cksum", "len", "plen"):
            if name in layer.fields:
                layer.delfieldval(name)  # and scapy's cache of the layer's bytes with it
        layer = layer.payload
    return bytes(packet)


def test_identifying_ipv4_fields_become_common_values() -> None:
    packet = IP(**V4, ttl=37, tos=0xB9, id=4711, flags="DF") / UDP(sport=5, dport=53) / b"question"
    got = IP(sent(packet))
    assert (got.ttl, got.tos, got.id, str(got.flags)) == (64, 0, 0, "DF")
    assert bytes(got[UDP]) == bytes(IP(bytes(packet))[UDP])
    assert sent(packet) == recomputed(sent(packet), IP)


def test_identifying_ipv6_fields_become_common_values() -> None:
    packet = IPv6(**V6, hlim=255, tc=3, fl=0xABCDE) / UDP(sport=5, dport=53) / b"question"
    got = IPv6(sent(packet))
    assert (got.hlim, got.tc, got.fl) == (64, 0, 0)
    assert sent(packet) == recomputed(sent(packet), IPv6)


def test_packet_that_needs_no_change_is_the_same_object() -> None:
    packet = bytes(IP(**V4, ttl=64, id=0, flags="DF") / TCP(flags="A", dport=443) / b"payload")
    (got,) = rules().at_source([packet])
    assert got is packet


def test_reserved_ipv4_flag_is_cleared() -> None:
    assert str(IP(sent(IP(**V4, flags="DF+evil") / UDP(dport=1))).flags) == "DF"


def test_ipv4_options_are_dropped_and_the_payload_kept() -> None:
    packet = IP(**V4, options=[IPOption_Router_Alert()]) / UDP(dport=9) / b"abc"
    got = IP(sent(packet))
    assert (got.ihl, got.options, bytes(got[Raw])) == (5, [], b"abc")
    assert bytes(got) == recomputed(bytes(got), IP)


def test_ipv6_options_are_dropped_and_the_payload_kept() -> None:
    options = IPv6ExtHdrHopByHop(options=[RouterAlert()]) / IPv6ExtHdrDestOpt(options=[PadN()])
    packet = IPv6(**V6) / options / UDP(dport=9) / b"abc"
    got = IPv6(sent(packet))
    assert (got.nh, bytes(got[Raw])) == (17, b"abc")
    assert bytes(got) == recomputed(bytes(got), IPv6)


def test_all_fragments_of_a_datagram_keep_one_identification_that_is_not_the_hosts() -> None:
    fragments = fragment(IP(**V4, id=4711) / UDP(dport=9) / bytes(3000), fragsize=1000)
    assert len(fragments) > 2
    got = [IP(raw) for raw in rules().at_source([bytes(part) for part in fragments])]
    assert len({part.id for part in got}) == 1
    assert got[0].id != 4711
    assert [part.frag for part in got] == [part.frag for part in fragments]
    assert [bytes(part.payload) for part in got] == [bytes(part.payload) for part in fragments]


@pytest.mark.slow
def test_identifications_stay_distinct_and_differ_from_node_to_node() -> None:
    packets = [bytes(IP(**V4, id=number) / UDP(dport=9)) for number in range(500)]
    alice = [IP(raw).id for raw in rules(1).at_source(packets)]
    other = [IP(raw).id for raw in rules(2).at_source(packets)]
    assert len(set(alice)) == 500
    assert sum(a == b for a, b in zip(alice, other, strict=True)) < 5


def test_ipv6_fragment_header_is_kept_with_another_identification() -> None:
    packet = IPv6(**V6) / IPv6ExtHdrFragment(offset=10, m=1, id=4711, res1=7, res2=1, nh=17)
    got = IPv6(sent(packet / Raw(bytes(64))))
    header = got[IPv6ExtHdrFragment]
    assert (header.offset, header.m, header.nh, header.res1, header.res2) == (10, 1, 17, 0, 0)
    assert header.id != 4711
    assert bytes(got)[48:] == bytes(64)


@pytest.mark.parametrize("dport", [80, 443])
@pytest.mark.parametrize(("ip", "mss"), [(IP(**V4), 998), (IPv6(**V6), 978)])
def test_syn_has_its_mss_clamped_and_its_timestamps_removed(
    ip: Packet, mss: int, dport: int
) -> None:
    options = [("MSS", 1460), ("SAckOK", b""), ("Timestamp", (123456, 0)), ("NOP", None)]
    syn = TCP(sport=4000, dport=dport, flags="SEC", seq=9, options=[*options, ("WScale", 7)])
    raw = sent(ip / syn)
    got = type(ip)(raw)
    assert raw == recomputed(raw, type(ip))
    assert str(got[TCP].flags) == "S"
    assert [o for o in got[TCP].options if o[0] != "NOP"] == [
        ("MSS", mss),
        ("SAckOK", b""),
        ("WScale", 7),
    ]


def test_a_smaller_mss_is_left_alone() -> None:
    got = IP(sent(IP(**V4) / TCP(flags="S", options=[("MSS", 500)])))
    assert got[TCP].options == [("MSS", 500)]


def test_fast_open_cookies_and_unknown_options_leave_no_trace() -> None:
    options = [("MSS", 900), ("TFO", (1, 2)), (253, b"host"), ("NOP", None), ("NOP", None)]
    got = IP(sent(IP(**V4) / TCP(flags="S", options=options)))
    assert ("MSS", 900) in got[TCP].options
    assert {o[0] for o in got[TCP].options} <= {"MSS", "NOP", "EOL"}


def test_bytes_after_the_end_of_the_options_are_cleared() -> None:
    segment = bytes(TCP(flags="S", dataofs=8)) + bytes.fromhex("02040384") + b"\x00hidden!"
    got = IP(sent(IP(**V4, proto=6) / Raw(segment)))
    assert bytes(got.payload)[24:32] == bytes(8)


def test_timestamps_outside_a_syn_are_not_touched() -> None:
    packet = bytes(
        IP(**V4, flags="DF", id=0) / TCP(flags="A", options=[("Timestamp", (1, 2))]) / b"data"
    )
    assert rules().at_source([packet]) == [packet]


def test_a_wrong_tcp_checksum_is_not_mended_by_accident() -> None:
    packet = IP(**V4) / TCP(flags="S", options=[("MSS", 1460)])
    right = IP(bytes(packet))[TCP].chksum
    packet[TCP].chksum = right ^ 0x0001
    assert sent(packet) != recomputed(sent(packet), IP)
    packet[TCP].chksum = right
    assert sent(packet) == recomputed(sent(packet), IP)


@pytest.mark.parametrize("kind", [0, 3, 8, 11, 12])
def test_icmp_echo_and_errors_pass(kind: int) -> None:
    assert IP(sent(IP(**V4) / ICMP(type=kind) / bytes(28)))[ICMP].type == kind


@pytest.mark.parametrize("kind", [4, 5, 9, 10, 13, 15, 17, 42, 255])
def test_other_icmp_stays_at_home(kind: int) -> None:
    assert refused(IP(**V4) / ICMP(type=kind) / bytes(28)) == "dropped_icmp_type"


def test_icmpv6_echo_and_errors_pass_and_discovery_stays_at_home() -> None:
    assert ICMPv6EchoRequest in IPv6(sent(IPv6(**V6) / ICMPv6EchoRequest(data=b"x")))
    assert ICMPv6PacketTooBig in IPv6(sent(IPv6(**V6) / ICMPv6PacketTooBig() / bytes(48)))
    assert refused(IPv6(**V6) / ICMPv6ND_RS()) == "dropped_icmp_type"
    report = IPv6(**V6) / IPv6ExtHdrHopByHop(options=[RouterAlert()]) / ICMPv6MLReport2()
    assert refused(report) == "dropped_icmp_type"


def test_protocols_that_may_name_the_host_stay_at_home() -> None:
    assert refused(IP(**V4) / SCTP()) == "dropped_protocol"
    assert refused(IP(**V4) / IP(**V4) / UDP()) == "dropped_protocol"
    assert refused(IPv6(**V6, nh=59) / Raw(bytes(8))) == "dropped_protocol"
    assert refused(IPv6(**V6, nh=1) / Raw(bytes(8))) == "dropped_protocol"


def test_routing_header_stays_at_home() -> None:
    assert refused(IPv6(**V6) / IPv6ExtHdrRouting() / UDP()) == "dropped_routing_header"


WHOLE = bytes(IP(**V4) / TCP(flags="S", options=[("MSS", 1460), ("WScale", 7)]) / b"data")
WHOLE6 = bytes(IPv6(**V6) / IPv6ExtHdrDestOpt(options=[PadN()]) / UDP(dport=5) / b"data")


@pytest.mark.parametrize("packet", [WHOLE, WHOLE6])
def test_truncated_and_extended_packets_are_dropped(packet: bytes) -> None:
    damaged = [packet[:size] for size in range(len(packet))] + [packet + b"\0", packet + bytes(40)]
    tested = rules()
    assert tested.at_source(damaged) == []
    assert tested.counters() == {"dropped_malformed": len(damaged)}


def test_every_flipped_bit_of_an_ipv4_header_is_seen() -> None:
    flipped = []
    for bit in range(160):
        damaged = bytearray(WHOLE)
        damaged[bit // 8] ^= 0x80 >> bit % 8
        flipped.append(bytes(damaged))
    assert rules().at_source(flipped) == []


@pytest.mark.parametrize(
    "options",
    ["0204", "020305b4", "0801", "fd00", "fd01", "fdff", "0303"],
)
def test_syn_options_whose_length_does_not_fit_are_dropped(options: str) -> None:
    field = bytes.fromhex(options)
    field = b"\x01" * (-len(field) % 4) + field
    header = bytearray(bytes(TCP(flags="S")) + field)
    header[12] = len(header) // 4 << 4
    assert refused(IP(**V4, proto=6) / Raw(bytes(header))) == "dropped_malformed"


@pytest.mark.parametrize(
    "packet",
    [
        IP(**V4, flags="MF") / UDP(dport=5) / b"odd",  # 11 bytes: no whole units
        IP(**V4, flags="MF", proto=6) / Raw(bytes(16)),  # a first fragment without its ports' flags
        IP(**V4, frag=8191, proto=17) / Raw(bytes(64)),  # would end past 65,535
        IP(**V4, frag=5, proto=17),  # empty
        IP(**V4) / UDP(dport=5, len=7) / b"abc",
        IP(**V4) / UDP(dport=5, len=500) / b"abc",
        IP(**V4, proto=6) / Raw(bytes(TCP(dataofs=4))),
        IPv6(**V6) / IPv6ExtHdrFragment(nh=60, m=1) / Raw(bytes(64)),
        IPv6(**V6, nh=60) / Raw(bytes((0, 0, 0, 0, 0, 0, 0, 0)) + bytes(64)),
    ],
)
def test_impossible_packets_are_dropped(packet: Packet) -> None:
    assert refused(packet) == "dropped_malformed"


def test_options_do_not_hide_the_upper_layer_without_bound() -> None:
    chain = bytes((60, 0, 1, 4, 0, 0, 0, 0)) * 3 + bytes((17, 0, 1, 4, 0, 0, 0, 0))
    allowed = IPv6(**V6, nh=60) / Raw(chain[8:] + bytes(UDP(len=8, chksum=1)))
    assert IPv6(sent(allowed)).nh == 17
    longer = IPv6(**V6, nh=60) / Raw(chain + bytes(UDP(len=8, chksum=1)))
    assert refused(longer) == "dropped_malformed"


@pytest.mark.parametrize(("path_mtu", "mss"), [(900, 860), (1038, 998), (1300, 998), (9000, 998)])
def test_path_mtu_rules_the_segments_until_these_would_need_fragments(path_mtu, mss) -> None:
    settings = StandardSettings(path_mtu=path_mtu)
    assert (settings.mss_ipv4, settings.mss_ipv6) == (mss, mss - 20)


def test_path_mtu_out_of_range_is_a_sentence() -> None:
    for value in (575, 65536):
        with pytest.raises(ValueError, match=r"^path_mtu must lie between 576 and 65535 bytes"):
            StandardSettings(path_mtu=value)
