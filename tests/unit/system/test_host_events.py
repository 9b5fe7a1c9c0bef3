import ipaddress
import struct

from hypothesis import given
from hypothesis import strategies as st

from overlay.system.host_events import (
    AddressChanged,
    EgressChanged,
    FilterChanged,
    IpsecChanged,
    LinkChanged,
    NetlinkProtocol,
    RouteChanged,
    RuleChanged,
    parse_events,
)
from overlay.system.netlink_messages import attribute, message

ROUTE = NetlinkProtocol.ROUTE


def link(kind, *, flags=0x41, name=b"eth0\0"):
    body = struct.pack("=BxHiII", 0, 1, 7, flags, 0)
    body += attribute(3, name) + attribute(4, struct.pack("=I", 1500))
    return message(kind, 0, body)


def route(kind, *, family=2, length=0, table=254, flags=0, more=b""):
    return message(
        kind, 0, struct.pack("=BBBBBBBBI", family, length, 0, 0, table, 4, 0, 1, flags) + more
    )


def test_devices_that_appear_change_and_vanish():
    assert parse_events(ROUTE, link(16)) == [LinkChanged(7, "eth0", True, True, 1500)]
    assert parse_events(ROUTE, link(16, flags=0x1)) == [LinkChanged(7, "eth0", True, False, 1500)]
    assert parse_events(ROUTE, link(17)) == [LinkChanged(7, "eth0", True, True, 1500, gone=True)]


def test_the_local_end_of_an_address_counts():
    body = struct.pack("=BBBBI", 2, 32, 0, 0, 3)
    body += attribute(1, bytes((10, 0, 0, 2))) + attribute(2, bytes((10, 0, 0, 1)))
    own = AddressChanged(3, ipaddress.ip_address("10.0.0.1"), 32, gone=True)
    assert parse_events(ROUTE, message(21, 0, body)) == [own]


def test_a_route_names_its_table_whatever_its_number_and_its_device():
    more = attribute(15, struct.pack("=I", 0x6D69)) + attribute(4, struct.pack("=I", 9))
    assert parse_events(ROUTE, route(24, family=10, length=64, table=252, more=more)) == [
        RouteChanged(6, 0x6D69, 9, is_default=False)
    ]
    assert parse_events(ROUTE, route(25)) == [RouteChanged(4, 254, 0, is_default=True, gone=True)]


def test_cached_routes_and_other_families_are_no_events():
    assert parse_events(ROUTE, route(24, flags=0x200)) == []
    assert parse_events(ROUTE, route(24, family=28)) == []


def test_rules_filters_and_policies():
    body = struct.pack("=BBBBBxxBI", 2, 0, 0, 0, 0, 1, 0)
    body += attribute(15, struct.pack("=I", 0x6D69)) + attribute(6, struct.pack("=I", 109))
    assert parse_events(ROUTE, message(33, 0, body)) == [RuleChanged(4, 0x6D69, 109, gone=True)]
    egress = struct.pack("=BxxxiIII", 0, 4, 0, 0xFFFFFFF3, 0)
    assert parse_events(ROUTE, message(45, 0, egress)) == [EgressChanged(4)]
    generation = b"\0\0\0\0" + attribute(1, struct.pack(">I", 77))
    changed = message(10 << 8 | 15, 0, generation)
    assert parse_events(NetlinkProtocol.NETFILTER, changed) == [FilterChanged(77)]
    assert parse_events(NetlinkProtocol.XFRM, message(0x1D, 0, b"")) == [IpsecChanged(True, True)]
    assert parse_events(NetlinkProtocol.XFRM, message(0x13, 0, b"")) == []


def test_the_same_event_is_told_once():
    assert len(parse_events(ROUTE, link(16) * 50)) == 1


@given(st.sampled_from(NetlinkProtocol), st.binary(max_size=200))
def test_any_bytes_give_events_or_none(family, data):
    assert isinstance(parse_events(family, data), list)


@given(st.sampled_from(NetlinkProtocol), st.integers(0, 0xFFFF), st.binary(max_size=80))
def test_any_message_gives_at_most_one_event(family, kind, body):
    assert len(parse_events(family, message(kind, 0, body))) <= 1
