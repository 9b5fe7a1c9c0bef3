"""Identifications of segments that leave an exit."""

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6

from overlay.offload.identification import Identifications
from overlay.offload.super_packets import cut
from overlay.sensitive import SecretBytes

SEGMENT = 240
ROOM = SEGMENT - 40


def tcp(sequence, size, *, port=80, flags="DF", identification=0):
    header = IP(src="192.0.2.1", dst="198.51.100.9", flags=flags, id=identification)
    return bytes(header / TCP(sport=port, flags="A", seq=sequence) / bytes(size))


def chosen(*packets, key=b"k" * 16):
    return Identifications(SecretBytes(key), SEGMENT).chosen(packets)


def cut_by_a_kernel(packet):
    """Linux counts the identification up from segment to segment, atomic or not."""
    first = IP(packet).id
    return [(first + number) % 2**16 for number in range(len(cut(packet, ROOM)))]


@pytest.mark.parametrize("sequence", [0, 12_345, 2**32 - ROOM * 7 - 3])
def test_a_segment_has_the_same_value_whether_it_was_joined_or_not(sequence):
    (whole,) = chosen(tcp(sequence, ROOM * 5 + 7))
    alone = chosen(*(tcp(sequence + ROOM * number, ROOM) for number in range(5)))
    assert cut_by_a_kernel(whole)[:5] == [IP(each).id for each in alone]


def test_headers_stay_valid_and_nothing_else_changes():
    packet = tcp(999_999, 77)
    (changed,) = chosen(packet)
    found = IP(changed)
    found.id = 0
    del found.chksum
    assert bytes(IP(bytes(found))) == packet
    given = IP(changed).chksum
    rebuilt = IP(changed)
    del rebuilt.chksum
    assert IP(bytes(rebuilt)).chksum == given


def test_flows_and_nodes_begin_at_different_values():
    values = {IP(chosen(tcp(0, 9, port=port))[0]).id for port in range(50)}
    values |= {IP(chosen(tcp(0, 9, port=port), key=b"q" * 16)[0]).id for port in range(50)}
    assert len(values) > 90


@pytest.mark.parametrize(
    "packet",
    [
        tcp(1000, 0),
        tcp(1000, 9, flags=0, identification=5),
        tcp(1000, 9, identification=5),
        bytes(IP(src="192.0.2.1", dst="198.51.100.9", flags="DF", id=0) / UDP() / b"x"),
        bytes(IPv6(src="2001:db8::1", dst="2001:db8::9") / TCP(flags="A") / b"x"),
    ],
)
def test_other_packets_stay_as_they_are(packet):
    assert chosen(packet)[0] is packet
