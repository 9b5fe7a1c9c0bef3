"""What a host uses, as the kernel tells it; and what no kernel would tell."""

import ipaddress
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.system.exit_problems import pool_problems
from overlay.system.host_networks import (
    NEIGHBOUR,
    RULE_SOURCE,
    UsedNetwork,
    parse_neighbour,
    parse_route,
    parse_rule,
    parse_specific,
    uses,
)
from overlay.system.netlink_messages import attribute
from overlay.system.rtnetlink import ROUTE_PROTOCOL

UNICAST, LOCAL, UNREACHABLE = 1, 2, 7


def route(destination, *, kind=UNICAST, protocol=3, gateway=None, flags=0, table=254):
    network = ipaddress.ip_network(destination)
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    head = struct.pack(
        "=BBBBBBBBI", family, network.prefixlen, 0, 0, table, protocol, 0, kind, flags
    )
    body = attribute(1, network.network_address.packed) if network.prefixlen else b""
    body += attribute(4, struct.pack("=I", 7))
    if gateway:
        body += attribute(5, ipaddress.ip_address(gateway).packed)
    return head + body


@pytest.mark.parametrize(
    ("body", "networks"),
    [
        (route("10.0.0.0/8"), ["10.0.0.0/8"]),
        (route("100.100.100.100/32", table=52), ["100.100.100.100/32"]),
        (route("fc00::/7"), ["fc00::/7"]),
        (route("192.168.1.5/32", kind=LOCAL), ["192.168.1.5/32"]),
        (route("0.0.0.0/0", gateway="10.9.9.1"), ["10.9.9.1/32"]),
        (route("0.0.0.0/1"), []),
        (route("128.0.0.0/1"), []),
        (route("::/0"), []),
        (route("8000::/1"), []),
        (route("10.0.0.0/8", kind=UNREACHABLE), []),
        (route("10.0.0.0/8", protocol=ROUTE_PROTOCOL), []),
        (route("10.0.0.0/8", flags=0x200), []),
    ],
)
def test_routes_more_specific_than_a_default_route_and_routers_are_in_use(body, networks):
    assert [str(used.network) for used in parse_route(body)] == networks


def test_every_router_of_a_route_over_several_devices_is_in_use():
    hops = b"".join(
        struct.pack("=HBBi", 16, 0, 0, 3) + attribute(5, ipaddress.ip_address(each).packed)
        for each in ("10.1.0.1", "10.2.0.1")
    )
    found = parse_route(route("0.0.0.0/0") + attribute(9, hops))
    assert [str(used.network) for used in found] == ["10.1.0.1/32", "10.2.0.1/32"]


@pytest.mark.parametrize(
    ("state", "there"), [(2, True), (4, True), (0x80, True), (1, False), (0x20, False), (0, False)]
)
def test_neighbours_that_answered_are_in_use(state, there):
    body = struct.pack("=BxxxiHBB", socket.AF_INET, 3, state, 0, 1)
    found = list(parse_neighbour(body + attribute(1, bytes((10, 9, 9, 9)))))
    assert found == ([UsedNetwork(ipaddress.ip_network("10.9.9.9"), 3, "a neighbour")] * there)


def test_an_address_is_used_by_the_network_that_it_lies_in():
    used = [UsedNetwork(ipaddress.ip_network("100.64.0.0/10"), 1, "a route")]
    assert uses(ipaddress.ip_address("100.99.1.1"), used) == used[0]
    assert uses(ipaddress.ip_address("10.1.1.1"), used) is None
    assert uses(ipaddress.ip_address("fd00::1"), used) is None


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (route("198.51.100.0/24", protocol=2), [(None, True)]),
        (route("198.51.100.0/24"), [(None, False)]),
        (route("2a00:1:2:3::/64", protocol=9), [(None, False)]),
        (route("198.51.100.0/24", gateway="10.1.0.1"), [("10.1.0.1", False)]),
        (route("198.51.100.0/24", table=52), [(None, False)]),
        (route("198.51.100.0/24", table=255), []),
        (route("198.51.100.0/24", protocol=ROUTE_PROTOCOL), []),
        (route("198.51.100.0/24", kind=UNREACHABLE), []),
        (route("0.0.0.0/1"), []),
        (route("2000::/3"), []),
    ],
)
def test_specific_routes_tell_links_from_networks_behind_routers(body, found):
    routers = [
        None if router is None else ipaddress.ip_address(router).packed for router, _ in found
    ]
    told = [(each.router, each.of_address) for each in parse_specific(body)]
    assert told == list(zip(routers, [own for _, own in found], strict=True))


def rule(to="", source="", *, protocol=3):
    networks = [ipaddress.ip_network(each) if each else None for each in (to, source)]
    lengths = [each.prefixlen if each else 0 for each in networks]
    body = struct.pack("=BBBBBBBBI", socket.AF_INET, *lengths, 0, 254, 0, 0, 1, 0)
    for number, network in enumerate(networks, start=1):
        body += attribute(number, network.network_address.packed) if network else b""
    return body + attribute(21, bytes([protocol]))


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (rule("10.9.0.0/16"), [("10.9.0.0/16", "a routing rule")]),
        (rule(source="10.9.0.0/16"), [("10.9.0.0/16", RULE_SOURCE)]),
        (rule(), []),
        (rule("0.0.0.0/1"), []),
        (rule("10.9.0.0/16", protocol=ROUTE_PROTOCOL), []),
    ],
)
def test_networks_that_routing_rules_name_are_in_use(body, found):
    assert [(str(used.network), used.what) for used in parse_rule(body)] == found


def test_an_operator_may_route_packets_from_a_pool_but_not_to_it():
    pool = ipaddress.ip_network("10.9.0.0/16")
    assert not pool_problems([pool], parse_rule(rule(source="10.9.0.0/16")), {})
    assert pool_problems([pool], parse_rule(rule("10.9.0.0/16")), {})


@given(st.binary(min_size=12, max_size=200))
def test_no_message_of_the_kernel_is_an_error(body):
    list(parse_route(body))
    list(parse_neighbour(body))
    list(parse_rule(body))
    list(parse_specific(body))


@pytest.mark.parametrize(("what", "kinds"), [(NEIGHBOUR, []), ("a router", ["pool_in_use"])])
def test_no_neighbour_keeps_an_exit_from_its_pool(what, kinds):
    used = [UsedNetwork(ipaddress.ip_network("100.64.0.9"), 2, what)]
    found = pool_problems([ipaddress.ip_network("100.64.0.0/10")], used, {2: "eth0"})
    assert [problem.kind for problem in found] == kinds
