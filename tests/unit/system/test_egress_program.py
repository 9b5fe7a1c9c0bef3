"""Egress programs, run by an interpreter of classic BPF, against what their rules say."""

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.system.egress_program import EgressRule, Field, compile_egress
from overlay.system.kill_switch_egress import kill_switch_programs
from overlay.system.rtnetlink import Route, RouteKind

PASS, DROP = 0xFFFFFFFF, 2
IPV4, IPV6, ARP = 0x0800, 0x86DD, 0x0806


def run(program, *, protocol, mark=0, header=b"", packet_type=0):
    """Interpret a program; a load outside of the packet ends it, as in the kernel."""
    code = list(struct.iter_unpack("=HBBI", program))
    at = accumulator = index = 0
    memory = [0] * 16
    while True:
        kind, if_true, if_false, value = code[at]
        at += 1
        match kind:
            case 0x20 if value == 0xFFFFF000:
                accumulator = protocol
            case 0x20 if value == 0xFFFFF004:
                accumulator = packet_type
            case 0x20 if value == 0xFFFFF014:
                accumulator = mark
            case 0x20:
                offset = value - 0xFFF00000
                if offset + 4 > len(header):
                    return 0
                (accumulator,) = struct.unpack_from(">I", header, offset)
            case 0x30:
                offset = value - 0xFFF00000
                if offset >= len(header):
                    return 0
                accumulator = header[offset]
            case 0x50:
                offset = value - 0xFFF00000 + index
                if offset >= len(header):
                    return 0
                accumulator = header[offset]
            case 0x01:
                index = value
            case 0x02:
                memory[value] = accumulator
            case 0x60:
                accumulator = memory[value]
            case 0x07:
                index = accumulator
            case 0x87:
                accumulator = index
            case 0x04:
                accumulator += value
            case 0x0C:
                accumulator += index
            case 0x64:
                accumulator <<= value
            case 0x2D:
                at += if_true if accumulator > index else if_false
            case 0x54:
                accumulator &= value
            case 0x15:
                at += if_true if accumulator == value else if_false
            case 0x05:
                at += value
            case 0x06:
                return value
            case _:
                raise AssertionError(hex(kind))


def packet(source, destination):
    """EtherType and header of a packet."""
    packed = ipaddress.ip_address(source).packed + ipaddress.ip_address(destination).packed
    return {
        "protocol": IPV4 if len(packed) == 8 else IPV6,
        "header": (b"\x45" + bytes(11) if len(packed) == 8 else bytes(8)) + packed + bytes(8),
    }


def with_options(options):
    """EtherType and header of an IPv4 packet to a neighbour; what follows it looks like LSRR."""
    whole = options + bytes(-len(options) % 4)
    header = bytes((0x45 + len(whole) // 4,)) + bytes(11) + b"\x0a\0\0\1\x0a\0\0\2" + whole
    return {"protocol": IPV4, "header": header + bytes((131, 7, 4)) + bytes(20)}


def with_extensions(*types):
    """EtherType and header of an IPv6 packet to a neighbour with these headers, of 16 bytes."""
    following = [*types, 17]
    header = bytes(6) + bytes((following[0], 64)) + bytes(32)
    for each in following[1:]:
        header += bytes((each, 1)) + bytes(14)
    return {"protocol": IPV6, "header": header + bytes((43, 2)) + bytes(20)}


def solicitation(destination, icmp_type, protocol=58):
    """EtherType and header of a unicast neighbour solicitation (RFC 4861)."""
    packed = ipaddress.ip_address("fe80::1").packed + ipaddress.ip_address(destination).packed
    header = bytes(6) + bytes((protocol, 255)) + packed + bytes((icmp_type, 0)) + bytes(30)
    return {"protocol": IPV6, "header": header}


def question(sender, target, opcode=1):
    """An ARP request, or with opcode 2 an answer (RFC 826 over Ethernet)."""
    sender, target = (ipaddress.ip_address(each).packed for each in (sender, target))
    head = struct.pack(">HHBBH", 1, IPV4, 6, 4, opcode) + bytes(6)
    return {"protocol": ARP, "header": head + sender + bytes(6) + target}


addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))
near = st.integers(0, 40).map(lambda n: ipaddress.ip_address(0x0A000000 + n)) | st.integers(
    0, 40
).map(lambda n: ipaddress.ip_address((0xFD00 << 112) + n))


@st.composite
def rules(draw):
    address = draw(near | addresses)
    length = draw(st.integers(0, address.max_prefixlen) | st.just(address.max_prefixlen - 3))
    prefix = ipaddress.ip_network((address, length), strict=False)
    fields = list(Field) if address.version == 4 else [Field.SOURCE, Field.DESTINATION]
    return EgressRule(prefix, draw(st.booleans()), draw(st.sampled_from(fields)))


@pytest.mark.slow
@given(st.lists(rules(), max_size=40), near, near, st.integers(0, 2**32 - 1))
def test_the_first_rule_that_matches_decides(given_rules, source, destination, mark):
    program = compile_egress(given_rules, [(0x6D69, 0xFFFF)])
    if source.version != destination.version:
        return
    fields = {Field.SOURCE: source, Field.DESTINATION: destination}
    expected = PASS
    for rule in given_rules:
        if rule.field in fields and fields[rule.field] in rule.prefix:
            expected = DROP if rule.drop else PASS
            break
    if mark & 0xFFFF == 0x6D69:
        expected = PASS
    assert run(program, mark=mark, **packet(source, destination)) == expected


@pytest.mark.slow
@given(st.lists(rules(), max_size=20), st.ip_addresses(v=4), st.integers(0, 0xFFFF))
def test_other_protocols_pass(given_rules, address, protocol):
    if protocol not in (IPV4, IPV6, ARP):
        program = compile_egress(given_rules, [])
        assert run(program, protocol=protocol, header=address.packed * 20) == PASS


def test_a_program_that_the_kernel_would_refuse_is_refused():
    rule = EgressRule(ipaddress.ip_network("2001:db8::/95"))
    with pytest.raises(ValueError, match="4096"):
        compile_egress([rule] * 1000, [])


def blocked(device, **kwargs):
    d4, d6 = ipaddress.ip_network("203.0.113.10/32"), ipaddress.ip_network("2001:db8::/32")
    part = ipaddress.ip_network("2001:db8:1::/48")
    vc = ipaddress.ip_address("100.64.0.9")
    routes = [Route(each, RouteKind.UNREACHABLE, 1, 9) for each in (d4, d6, part)]
    routes.append(Route(d4, RouteKind.UNICAST, 1, 1, "anon0", vc))
    routes.append(Route(part, RouteKind.UNICAST, 1, 1, "anon0", ipaddress.ip_address("fd99::1")))
    on_link = {"eth1": (ipaddress.ip_network("203.0.113.0/24"),)}
    verdicts = {
        run(each, **kwargs) for each in kill_switch_programs(0x6D69, routes, on_link)(device)
    }
    return DROP if DROP in verdicts else PASS


def test_a_device_lets_out_what_it_carries_and_the_node_s_own():
    to_d = packet("192.0.2.1", "203.0.113.10")
    assert blocked("eth0", **to_d) == DROP
    assert blocked("anon0", **to_d) == PASS
    assert blocked("eth0", mark=0x6D69, **to_d) == PASS
    assert blocked("eth0", mark=0x26D69, **to_d) == PASS, "an answer to what began outside"
    assert blocked("eth0", **packet("192.0.2.1", "203.0.113.11")) == PASS


def test_the_longest_prefix_is_judged_first():
    assert blocked("anon0", **packet("fd99::1", "2001:db8:1::5")) == PASS
    assert blocked("anon0", **packet("fd99::1", "2001:db8:2::5")) == DROP
    assert blocked("eth0", **packet("fd99::2", "2001:db8:1::5")) == DROP


def test_an_inner_address_leaves_through_its_circuit_alone():
    assert blocked("eth0", **packet("100.64.0.9", "198.51.100.1")) == DROP
    assert blocked("anon0", **packet("100.64.0.9", "203.0.113.10")) == PASS
    assert blocked("eth0", **question("100.64.0.9", "198.51.100.1")) == DROP
    assert blocked("eth0", **packet("192.0.2.1", "100.64.0.9")) == DROP, "an ICMP error about it"


def test_arp_asks_for_a_destination_only_where_it_is_on_the_link():
    assert blocked("eth0", **question("192.0.2.1", "203.0.113.10")) == DROP
    assert blocked("eth1", **question("192.0.2.1", "203.0.113.10")) == PASS
    assert blocked("eth0", **question("192.0.2.1", "192.0.2.7")) == PASS


def test_a_neighbour_that_asks_in_a_destinations_name_is_answered():
    assert blocked("eth0", **question("192.0.2.1", "203.0.113.10", opcode=2)) == PASS


@pytest.mark.parametrize(
    ("packet_type", "expected"),
    [(0, DROP), (1, PASS), (2, PASS), (3, PASS), (4, DROP), (5, DROP)],
)
def test_a_bridge_passes_on_frames_of_others(packet_type, expected):
    program = compile_egress([EgressRule(ipaddress.ip_network("10.0.0.7"))], [])
    assert run(program, **packet("10.0.0.1", "10.0.0.7"), packet_type=packet_type) == expected


def test_neighbours_find_each_other_on_a_link():
    assert blocked("eth0", **solicitation("2001:db8::5", 135)) == PASS
    assert blocked("eth0", **solicitation("2001:db8::5", 136)) == PASS
    assert blocked("eth0", **solicitation("2001:db8::5", 128)) == DROP
    assert blocked("eth0", **solicitation("2001:db8::5", 135, protocol=17)) == DROP


_LSRR, _SSRR = bytes((131, 7, 4, 203, 0, 113, 10)), bytes((137, 7, 4, 203, 0, 113, 10))
_ROUTER_ALERT, _TIMESTAMP = bytes((148, 4, 0, 0)), bytes((68, 8, 5, 0)) + bytes(4)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (b"", PASS),
        (_LSRR, DROP),
        (_SSRR, DROP),
        (b"\1\1\1" + _LSRR, DROP),
        (_ROUTER_ALERT, PASS),
        (_TIMESTAMP + _SSRR, DROP),
        (b"\1" + _ROUTER_ALERT + _TIMESTAMP, PASS),
        (_ROUTER_ALERT + b"\0" + _LSRR, PASS),  # behind the end of options, where none looks
        (b"\1" * 20, DROP),
        (bytes((148, 0, 0, 0)), DROP),  # a length that leads nowhere
    ],
)
def test_a_program_that_chooses_stations_sends_nothing(options, expected):
    assert blocked("eth0", **with_options(options)) == expected
    assert blocked("anon0", **with_options(options)) == expected
    assert blocked("eth0", mark=0x26D69, **with_options(options)) == PASS, "an answer"


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        ((), PASS),
        ((0,), PASS),
        ((43,), DROP),
        ((0, 43), DROP),
        ((60, 43), DROP),
        ((0, 60, 43), DROP),
        ((44,), PASS),
        ((0, 60, 60, 60), DROP),
    ],
)
def test_neither_does_one_that_names_them_in_an_ipv6_header(types, expected):
    assert blocked("eth0", **with_extensions(*types)) == expected


def test_a_device_has_no_program_while_nothing_is_protected():
    assert kill_switch_programs(0x6D69, [], {})("eth0") == ()
