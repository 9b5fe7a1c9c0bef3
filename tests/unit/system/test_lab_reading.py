import struct

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from lab import reading
from lab.namespaces import LabError, isolation_command
from lab.underlay import numbered_addresses

FOUR = IP(src="192.0.2.1", dst="198.51.100.2")
SIX = IPv6(src="2001:db8::1", dst="2001:db8::2")
ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")


def pcap(path, frames, *, link_type=1, order="<", magic=0xA1B2C3D4, fraction=500_000):
    data = struct.pack(order + "IHHIIII", magic, 2, 4, 0, 0, 65535, link_type)
    for frame in frames:
        raw = bytes(frame)
        data += struct.pack(order + "IIII", 7, fraction, len(raw), len(raw)) + raw
    path.write_bytes(data)
    return path


def read(tmp_path, *frames, **options):
    return list(reading.read_packets(pcap(tmp_path / "x.pcap", frames, **options)))


def test_udp_and_tcp_of_both_families_are_read_with_ports_and_payload(tmp_path):
    found = read(
        tmp_path,
        ETHER / FOUR / UDP(sport=4500, dport=4501) / Raw(b"esp"),
        ETHER / SIX / UDP(sport=1, dport=2) / Raw(b"six"),
        ETHER / FOUR / TCP(sport=3, dport=4, options=[("MSS", 1200)]) / Raw(b"tcp"),
        ETHER / FOUR / ICMP() / Raw(b"ping"),
    )
    assert [(p.version, p.protocol, p.source_port, p.destination_port) for p in found] == [
        (4, reading.UDP, 4500, 4501),
        (6, reading.UDP, 1, 2),
        (4, reading.TCP, 3, 4),
        (4, reading.ICMP, 0, 0),
    ]
    assert [p.payload for p in found[:3]] == [b"esp", b"six", b"tcp"]
    assert [p.length for p in found[:2]] == [20 + 8 + 3, 40 + 8 + 3]
    assert (found[0].source, found[0].destination) == ("192.0.2.1", "198.51.100.2")
    assert (found[1].source, found[1].destination) == ("2001:db8::1", "2001:db8::2")
    assert found[0].timestamp == 7.5


def test_ethernet_padding_is_no_payload(tmp_path):
    (found,) = read(tmp_path, bytes(ETHER / FOUR / UDP() / Raw(b"x")) + bytes(18))
    assert found.payload == b"x"


def test_arp_shows_sender_and_target(tmp_path):
    (found,) = read(tmp_path, ETHER / ARP(psrc="192.0.2.1", pdst="192.0.2.9"))
    assert (found.protocol, found.source, found.destination) == (
        reading.ARP, "192.0.2.1", "192.0.2.9",
    )  # fmt: skip


def test_later_fragments_have_no_ports(tmp_path):
    found = read(
        tmp_path,
        ETHER / FOUR.copy() / UDP(sport=5, dport=6) / Raw(b"first"),
        ETHER / IP(src="192.0.2.1", dst="192.0.2.2", frag=10, proto=17) / Raw(b"later part"),
        ETHER / SIX / IPv6ExtHdrFragment(nh=17, offset=10) / Raw(b"later part"),
        ETHER / SIX / IPv6ExtHdrFragment(nh=17, m=1) / UDP(sport=5, dport=6) / Raw(b"first"),
    )
    assert [p.source_port for p in found] == [5, 0, 0, 5]
    assert [p.protocol for p in found] == [reading.UDP] * 4
    assert found[2].payload == b"later part"


def test_ipv6_extension_headers_are_passed_over(tmp_path):
    (found,) = read(tmp_path, ETHER / SIX / IPv6ExtHdrDestOpt() / UDP(sport=8, dport=9) / b"x")
    assert (found.protocol, found.destination_port, found.payload) == (reading.UDP, 9, b"x")


def test_raw_ip_and_the_any_device_are_understood(tmp_path):
    packet = bytes(FOUR / UDP(sport=1, dport=2) / Raw(b"x"))
    sll = struct.pack(">HHH8sH", 0, 1, 6, bytes(8), 0x0800) + packet
    sll2 = struct.pack(">HHIHBB8s", 0x0800, 0, 1, 1, 0, 6, bytes(8)) + packet
    for link_type, frame in ((101, packet), (113, sll), (276, sll2)):
        (found,) = read(tmp_path, frame, link_type=link_type)
        assert found.payload == b"x"


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("magic", "fraction"), [(0xA1B2C3D4, 250_000), (0xA1B23C4D, 250_000_000)])
def test_byte_orders_and_nanoseconds(tmp_path, order, magic, fraction):
    frame = ETHER / FOUR / UDP()
    (found,) = read(tmp_path, frame, order=order, magic=magic, fraction=fraction)
    assert found.timestamp == pytest.approx(7.25)


def test_frames_cut_off_anywhere_raise_nothing(tmp_path):
    whole = bytes(ETHER / SIX / IPv6ExtHdrDestOpt() / TCP(sport=8, dport=9) / b"payload")
    frames = [whole[:size] for size in range(len(whole))]
    assert len(read(tmp_path, *frames, whole)) < len(frames)


def test_a_record_cut_off_at_the_end_is_left_out(tmp_path):
    path = pcap(tmp_path / "x.pcap", [ETHER / FOUR / UDP()] * 2)
    path.write_bytes(path.read_bytes()[:-1])
    assert len(list(reading.read_packets(path))) == 1


@pytest.mark.parametrize("content", [b"", b"\n" * 24])
def test_other_files_are_refused_with_a_sentence(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(LabError, match="no pcap file"):
        list(reading.read_packets(tmp_path / "x"))


def test_an_unknown_link_type_is_refused(tmp_path):
    with pytest.raises(LabError, match="link type 147"):
        read(tmp_path, link_type=147)


def test_hosts_are_numbered_into_networks_of_their_own():
    first, last = numbered_addresses(1), numbered_addresses(255)
    assert [str(address) for address in first] == ["10.1.0.2/16", "fd00:1::2/32"]
    assert [str(address) for address in last] == ["10.255.0.2/16", "fd00:ff::2/32"]
    for number in (0, 256):
        with pytest.raises(LabError, match="from 1 to 255"):
            numbered_addresses(number)


@pytest.mark.parametrize(("user", "own_users"), [(0, False), (1000, True)])
def test_only_an_ordinary_user_needs_a_user_namespace(monkeypatch, user, own_users):
    monkeypatch.setattr("os.geteuid", lambda: user)
    command = isolation_command(["make", "demo"])
    assert command[0] == "unshare"
    assert command[-2:] == ["make", "demo"]
    assert ("--user" in command) is own_users
