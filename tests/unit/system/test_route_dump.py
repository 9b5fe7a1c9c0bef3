"""Networks on links, as a kernel lists them, and when they are read."""

import ipaddress
import socket
import struct

import pytest

from overlay.system.host_events import LinkChanged, Overrun, RouteChanged
from overlay.system.link_networks import LinkNetworks
from overlay.system.netlink_messages import attribute, message
from overlay.system.route_dump import default_hops, networks_on_link
from overlay.system.upper_devices import through_lower_devices

MAIN = 254
DONE = message(3, 0, bytes(4))


class Kernel:
    """A netlink socket whose answers are given."""

    def __init__(self, *datagrams):
        self.datagrams = list(datagrams)

    def send(self, request):
        self.request = request

    def recv(self, _size):
        return self.datagrams.pop(0)


def route(destination, *attributes_, table=MAIN, kind=1):
    network = ipaddress.ip_network(destination)
    head = struct.pack("=BBBBBBBBI", socket.AF_INET, network.prefixlen, 0, 0, table, 3, 0, kind, 0)
    body = attribute(15, struct.pack("=I", table))
    if network.prefixlen:
        body += attribute(1, network.network_address.packed)
    return message(24, 2, head + body + b"".join(attributes_))


def device(index):
    return attribute(4, struct.pack("=I", index))


def router(address):
    return attribute(5, ipaddress.ip_address(address).packed)


def hop(index, address):
    inner = router(address)
    return struct.pack("=HBBi", 8 + len(inner), 0, 0, index) + inner


def networks(*texts):
    return set(map(ipaddress.ip_network, texts))


def test_what_is_on_a_link_and_its_routers_are_found():
    kernel = Kernel(
        route("0.0.0.0/0", router("10.9.0.2"), device(2))
        + route("10.9.0.0/24", device(2))
        + route("203.0.113.0/24", device(3)),
        route("198.51.100.0/24", attribute(9, hop(2, "10.9.0.3") + hop(3, "10.8.0.1")))
        + route("192.0.2.0/24", attribute(18, bytes(18)), device(2))  # a router over IPv6
        + route("192.0.2.9/32", kind=7)
        + DONE,
    )
    assert networks_on_link(kernel, MAIN) == (
        {
            2: networks("10.9.0.2", "10.9.0.0/24", "10.9.0.3"),
            3: networks("203.0.113.0/24", "10.8.0.1"),
        },
        6,
    )


def test_routes_that_differ_in_their_destination_alone_count_as_one():
    many = [route(f"20.0.{i}.0/24", router("10.9.0.2"), device(2)) for i in range(100)]
    on_link = [route(f"21.0.{i}.0/24", device(2)) for i in range(3)]
    found, count = networks_on_link(Kernel(b"".join(many + on_link), DONE), MAIN)
    assert found == {2: networks("10.9.0.2", "21.0.0.0/24", "21.0.1.0/24", "21.0.2.0/24")}
    assert count == 103


def test_a_kernel_that_sends_all_tables_is_understood():
    listed = route("10.9.0.0/24", device(2), table=7) + route("0.0.0.0/0", device(3), table=7)
    assert networks_on_link(Kernel(listed, DONE), MAIN)[0] == {}
    assert default_hops(Kernel(listed, DONE), 4, MAIN) == []


def test_default_routes_are_found_among_others():
    listed = (
        route("10.9.0.0/24", device(2))
        + route("0.0.0.0/0", router("10.9.0.2"), device(2))
        + route("0.0.0.0/0", kind=7)
    )
    (found,) = default_hops(Kernel(listed + DONE), 4, MAIN)
    assert (found.device, found.router) == (2, bytes((10, 9, 0, 2)))


def test_a_dump_that_the_kernel_refuses_is_an_error():
    with pytest.raises(OSError, match="refused"):
        networks_on_link(Kernel(message(2, 0, struct.pack("=i", -1) + bytes(16))), MAIN)


class Routes:
    def __init__(self, count=3):
        self.count, self.readings = count, 0

    def on_link(self):
        self.readings += 1
        return {}, self.count


def test_without_notifications_each_question_reads():
    routes = Routes()
    links = LinkNetworks(routes)
    links.current()
    links.current()
    assert routes.readings == 2


@pytest.mark.parametrize(
    ("event", "readings"),
    [
        (RouteChanged(4, MAIN, 2, is_default=False), 2),
        (LinkChanged(2, "eth0", up=False, running=False), 2),
        (Overrun(), 2),
        (RouteChanged(6, MAIN, 2, is_default=False), 1),
        (RouteChanged(4, 7, 2, is_default=False), 1),
    ],
)
def test_changes_that_concern_a_link_are_the_reason_to_read(event, readings):
    routes = Routes()
    links = LinkNetworks(routes)
    links.hear(())
    links.current()
    assert not links.outdated
    links.hear([event])
    links.current()
    links.current()
    assert routes.readings == readings
    assert not links.outdated


def test_a_large_table_that_changes_all_the_time_is_read_more_rarely_and_at_last():
    routes = Routes(count=200_000)
    links = LinkNetworks(routes)
    for _ in range(100):
        links.hear([Overrun()])
        links.current()
    assert 2 <= routes.readings <= 4
    while links.outdated:
        links.current()
    assert routes.readings <= 5


def test_what_is_on_the_link_of_a_bridge_is_on_those_of_its_ports():
    near, far = (ipaddress.ip_network(each) for each in ("10.1.0.0/16", "10.2.0.0/16"))
    port, bridge, vlan, other, loop = 1, 2, 3, 4, 5
    uppers = {port: {bridge}, bridge: {vlan}, loop: {loop}}
    found = through_lower_devices({bridge: {near}, vlan: {far}, other: {near}}, uppers)
    assert found == {port: {near, far}, bridge: {near, far}, vlan: {far}, other: {near}}
