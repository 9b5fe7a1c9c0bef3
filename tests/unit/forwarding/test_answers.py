"""What an exit makes alike in answers of servers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP, IPOption_Router_Alert
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment

from overlay.forwarding.answers import normalised_answers

MARKED = {"src": "203.0.113.7", "dst": "100.64.0.2", "tos": 0xBB, "ttl": 113, "id": 0xBEEF}


def normalised(packet):
    return normalised_answers([bytes(packet)])[0]


@pytest.mark.parametrize("flags", [0, "DF"])
@pytest.mark.parametrize("options", [[], [IPOption_Router_Alert()]])
def test_ipv4_headers_carry_no_mark(flags, options):
    packet = IP(**MARKED, flags=flags, options=options) / UDP(sport=1, dport=2) / b"payload"
    found = IP(normalised(packet))
    assert (found.tos, found.ttl, found.id, found.flags) == (0, 64, 0, "DF")
    assert bytes(found[UDP]) == bytes(IP(bytes(packet))[UDP])
    given_checksum = found.chksum
    del found.chksum
    assert IP(bytes(found)).chksum == given_checksum


def test_ipv4_fragments_keep_what_puts_them_together():
    packet = IP(**MARKED, flags="MF", frag=0) / bytes(16)
    found = IP(normalised(packet))
    assert (found.tos, found.ttl, found.id, found.flags) == (0, 64, 0xBEEF, "MF")


def test_ipv6_headers_carry_no_mark():
    packet = (
        IPv6(src="2001:db8::7", dst="fd99::2", tc=0xBB, fl=0xABCDE, hlim=113)
        / IPv6ExtHdrFragment(id=77, m=1)
        / bytes(16)
    )
    found = IPv6(normalised(packet))
    assert (found.tc, found.fl, found.hlim) == (0, 0, 64)
    assert bytes(found.payload) == bytes(packet.payload)


def test_what_is_clean_already_is_not_copied():
    clean = [
        bytes(IP(src="203.0.113.7", dst="100.64.0.2", id=0, flags="DF") / UDP() / b"x"),
        bytes(IPv6(src="2001:db8::7", dst="fd99::2") / UDP() / b"x"),
    ]
    assert [a is b for a, b in zip(normalised_answers(clean), clean, strict=True)] == [True, True]


@given(st.lists(st.binary(max_size=80)))
def test_any_bytes_keep_their_length(packets):
    found = normalised_answers(packets)
    assert [len(each) for each in found] == [len(each) for each in packets]
