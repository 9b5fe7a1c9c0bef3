"""Which segments are joined; that nothing is lost is in tests/properties/test_super_packets.py."""

from scapy.layers.inet import IP, TCP

from overlay.offload.joining import joined

SEGMENT = 240
ROOM = SEGMENT - 40


def segment(number, *, room=ROOM, port=80, **fields):
    tcp = {"sport": port, "dport": 9, "flags": "A", "seq": number * ROOM} | fields
    return bytes(
        IP(src="192.0.2.1", dst="198.51.100.9", flags="DF", id=0) / TCP(**tcp) / bytes(room)
    )


def sizes(packets):
    return [len(each) for each in joined(packets, SEGMENT)]


def test_flows_are_joined_apart():
    mixed = [segment(number, port=port) for number in range(3) for port in (80, 443)]
    assert sizes(mixed) == [40 + 3 * ROOM] * 2


def test_a_super_packet_is_never_larger_than_an_ip_packet():
    many = [segment(number) for number in range(400)]
    assert sum(size - 40 for size in sizes(many)) == 400 * ROOM
    assert all(size <= 65_535 for size in sizes(many))
    assert len(sizes(many)) == 2


def test_a_smaller_segment_and_one_that_pushes_end_a_super_packet():
    small = [segment(0), segment(1, room=9), segment(2), segment(3)]
    assert sizes(small) == [40 + ROOM + 9, 40 + 2 * ROOM]
    pushed = [segment(0), segment(1, flags="PA"), segment(2), segment(3)]
    assert sizes(pushed) == [40 + 2 * ROOM] * 2
    assert [IP(each)[TCP].flags for each in joined(pushed, SEGMENT)] == ["PA", "A"]


def test_a_damaged_segment_stays_damaged():
    damaged = bytearray(segment(1))
    damaged[-1] ^= 1
    packets = [segment(0), bytes(damaged), segment(2)]
    assert joined(packets, SEGMENT) == packets


def test_a_packet_between_two_segments_of_its_flow_is_not_overtaken():
    acknowledgement = segment(2, room=0, ack=77)
    packets = [segment(0), segment(1), acknowledgement, segment(2), segment(3)]
    assert sizes(packets) == [40 + 2 * ROOM, 40, 40 + 2 * ROOM]
