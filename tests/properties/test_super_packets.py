"""Super-packets: what is cut can be joined, what is joined can be cut, and nothing else changes."""

from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6

from overlay.offload.joining import joined
from overlay.offload.super_packets import cut, cut_all, cut_datagrams, is_super_packet

SEGMENT = 200
FIN, PSH, ACK, CWR = 0x01, 0x08, 0x10, 0x80

versions = st.sampled_from([4, 6])
options = st.sampled_from(
    [[], [("NOP", None), ("NOP", None), ("Timestamp", (7, 9))], [("SAck", (1, 2)), ("NOP", None)]]
)
sequences = st.one_of(st.integers(0, 2**32 - 1), st.integers(2**32 - 2000, 2**32 - 1))


def headers(version, ports=(80, 4000), atomic=True):
    if version == 6:
        return IPv6(src="2001:db8::7", dst="fd99::2", hlim=64)
    return IP(
        src="203.0.113.7", dst="100.64.0.2", id=0 if atomic else 0xFFF0, flags="DF" if atomic else 0
    )


def packet(version, payload, *, sequence=1, flags=ACK, opts=(), atomic=True, port=80, ack=5):
    tcp = TCP(sport=port, dport=4000, seq=sequence, ack=ack, flags=flags, options=list(opts))
    return bytes(headers(version, atomic=atomic) / tcp / payload)


def parsed(version, data):
    return (IP if version == 4 else IPv6)(data)


def with_right_sums(version, data):
    """Let scapy compute every checksum and length anew."""
    found = parsed(version, data)
    for layer in (found, found[TCP] if TCP in found else found[UDP]):
        for name in ("chksum", "len", "plen"):
            if name in layer.fields:
                delattr(layer, name)
    return bytes(found)


@given(
    versions,
    st.binary(max_size=600),
    st.integers(40, 300),
    sequences,
    st.sampled_from([ACK, ACK | PSH, ACK | FIN, ACK | PSH | FIN | CWR]),
    options,
    st.booleans(),
)
def test_segments_are_what_the_kernel_would_cut(
    version, payload, size, sequence, flags, opts, atomic
):
    whole = packet(version, payload, sequence=sequence, flags=flags, opts=opts, atomic=atomic)
    segments = cut(whole, size)
    found = [parsed(version, segment) for segment in segments]
    assert b"".join(bytes(each[TCP].payload) for each in found) == payload
    assert [len(each[TCP].payload) for each in found[:-1]] == [size] * (len(found) - 1)
    assert [each[TCP].seq for each in found] == [
        (sequence + size * number) % 2**32 for number in range(len(found))
    ]
    assert [with_right_sums(version, segment) for segment in segments] == segments
    last = len(found) - 1
    for number, each in enumerate(found):
        kept = ACK | (flags & (FIN | PSH) if number == last else 0)
        assert int(each[TCP].flags) == kept | (flags & CWR if number == 0 else 0)
        assert each[TCP].options == found[0][TCP].options
        if version == 4:
            assert each.id == (0 if atomic else (0xFFF0 + number) % 2**16)


@given(versions, st.binary(min_size=1, max_size=600), st.integers(40, 300))
def test_datagrams_of_one_large_packet_have_valid_checksums(version, payload, size):
    whole = bytes(headers(version) / UDP(sport=5, dport=6) / payload)
    datagrams = cut_datagrams(whole, size)
    found = [parsed(version, each) for each in datagrams]
    assert b"".join(bytes(each[UDP].payload) for each in found) == payload
    assert all(len(each[UDP].payload) == size for each in found[:-1])
    assert [with_right_sums(version, each) for each in datagrams] == datagrams


segments_of_flows = st.lists(
    st.tuples(
        versions,
        st.sampled_from([80, 443]),
        st.sampled_from([0, 1, 60, SEGMENT]),  # payload; the last means a whole segment
        st.sampled_from([ACK] * 6 + [ACK | PSH, ACK | FIN, ACK | CWR, 0x02]),
        st.sampled_from([0] * 8 + [1, -1, 500]),  # gap before this segment
        st.sampled_from([5] * 6 + [6]),  # acknowledgement number
        st.sampled_from([True] * 6 + [False]),
        st.sampled_from([None] * 8 + [17, 38, 45]),  # byte that is damaged
    ),
    max_size=16,
)


def made(rows):
    following: dict[tuple[int, int], int] = {}
    packets = []
    for version, port, size, flags, gap, ack, atomic, damaged in rows:
        room = SEGMENT - (40 if version == 4 else 60)
        payload = bytes((size + len(packets)) % 256 for _ in range(min(size, room)))
        sequence = (following.get((version, port), 2**32 - 300) + gap) % 2**32
        following[version, port] = sequence + len(payload)
        made_packet = packet(
            version, payload, sequence=sequence, flags=flags, atomic=atomic, port=port, ack=ack
        )
        if damaged is not None:
            changed = bytearray(made_packet)
            changed[damaged % len(changed)] ^= 0x40
            made_packet = bytes(changed)
        packets.append(made_packet)
    return packets


def by_flow(packets):
    flows: dict[bytes, list[bytes]] = {}
    for each in packets:
        flows.setdefault(each[12:24] if each[0] >> 4 == 4 else each[8:44], []).append(each)
    return flows


@given(segments_of_flows)
def test_what_is_joined_is_cut_into_the_same_segments_in_the_same_order(rows):
    packets = made(rows)
    assert by_flow(cut_all(joined(packets, SEGMENT), SEGMENT)) == by_flow(packets)


@given(versions, st.integers(2, 40), st.integers(0, 139), options, sequences)
def test_whole_segments_of_a_flow_become_one_super_packet(version, count, rest, opts, sequence):
    bare = packet(version, b"", opts=opts)
    room = SEGMENT - len(bare)
    payload = bytes(number % 251 for number in range(room * count + min(rest, room - 1)))
    whole = packet(version, payload, opts=opts, sequence=sequence, flags=ACK | PSH)
    segments = cut_all([whole], SEGMENT)
    (again,) = joined(segments, SEGMENT)
    assert is_super_packet(again, SEGMENT)
    assert with_right_sums(version, again) == whole
