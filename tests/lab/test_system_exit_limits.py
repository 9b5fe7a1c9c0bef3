# ruff: noqa: F811 - fixtures of another module
"""One circuit does not take an exit's ports or its connection table; own addresses are closed."""

import contextlib
import ipaddress

import pytest
from scapy.layers import inet
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from test_system_exit_filter import (  # noqa: F401 - fixtures
    INNER,
    POOLS,
    circuit,
    filter_type,
    hosts,
)

from lab.reading import UDP
from overlay.system.conntrack import forget_connections
from overlay.system.exit_filter import ExitFilter
from overlay.system.exit_limits import ExitLimits

OTHER = ("100.64.7.7", "fd99::77")
MOST = 20


@contextlib.contextmanager
def limited(host, circuit, filter_type, **limits):
    """An exit with these limits alone."""
    given = ExitLimits(**{"per_circuit": 0, "per_second": 0, "total": 0, **limits})
    made = host.namespace.call(
        lambda: ExitFilter(
            circuit.exit_device.name, POOLS, packet_filter=filter_type(), limits=given
        )
    )
    host.namespace.call(made.install)
    try:
        yield made
    finally:
        host.namespace.call(made.remove)


def flows(bob, sources, ports):
    """The first packet of a UDP flow from each port, over IPv4 and IPv6."""
    first, second = sources
    return [
        packet
        for port in ports
        for packet in (
            bytes(IP(src=first, dst=str(bob.ipv4.ip)) / inet.UDP(sport=port, dport=9) / b"x"),
            bytes(IPv6(src=second, dst=str(bob.ipv6.ip)) / inet.UDP(sport=port, dport=9) / b"x"),
        )
    ]


def pings(bob, idents):
    return [
        packet
        for ident in idents
        for packet in (
            bytes(IP(src=INNER[0], dst=str(bob.ipv4.ip)) / ICMP(id=ident)),
            bytes(IPv6(src=INNER[1], dst=str(bob.ipv6.ip)) / ICMPv6EchoRequest(id=ident)),
        )
    ]


@pytest.fixture
def arrive(hosts, circuit, exchange, tmp_path):
    """Send packets out of circuits; return how many UDP packets of each IP version arrive."""
    exit_host, bob = hosts
    numbers = iter(range(100))

    def send(packets, protocols=(UDP,)):
        with bob.capture(tmp_path / f"bob{next(numbers)}.pcap") as capture:
            circuit.exit_device.write_batch(packets)
            exchange(exit_host, bob)
        arrived = [
            p
            for p in capture.packets()
            if p.protocol in protocols
            and p.destination in (str(bob.ipv4.ip), str(bob.ipv6.ip))
            and (p.protocol != UDP or p.destination_port == 9)
        ]
        return [sum(p.version == version for p in arrived) for version in (4, 6)]

    return send


def test_a_circuit_has_so_many_connections_and_others_keep_theirs(
    hosts, circuit, filter_type, arrive
):
    exit_host, bob = hosts
    with limited(exit_host, circuit, filter_type, per_circuit=MOST):
        assert arrive(flows(bob, INNER, range(1000, 1000 + 3 * MOST))) == [MOST, MOST]
        assert arrive(pings(bob, range(10)), protocols=(1, 58)) == [0, 0]
        # What has begun goes on, and another circuit is not concerned.
        assert arrive(flows(bob, INNER, range(1000, 1000 + MOST))) == [MOST, MOST]
        assert arrive(flows(bob, OTHER, range(1000, 1000 + MOST))) == [MOST, MOST]
        for address in INNER:
            packed = ipaddress.ip_address(address).packed
            exit_host.namespace.call(lambda p=packed: forget_connections(p))
        assert arrive(flows(bob, INNER, range(2000, 2000 + 3 * MOST))) == [MOST, MOST]


def test_a_circuit_begins_so_many_connections_a_second(hosts, circuit, filter_type, arrive):
    exit_host, bob = hosts
    with limited(exit_host, circuit, filter_type, per_second=1):
        begun = arrive(flows(bob, INNER, range(1000, 1100)))
        assert all(8 <= count <= 14 for count in begun)  # ten at once, and what time adds
        # Packets of one flow are not counted, however many.
        assert arrive(flows(bob, INNER, [1000] * 50)) == [50, 50]
        assert all(count >= 8 for count in arrive(flows(bob, OTHER, range(1000, 1010))))


def test_all_circuits_together_have_so_many_connections(hosts, circuit, filter_type, arrive):
    exit_host, bob = hosts
    with limited(exit_host, circuit, filter_type, per_circuit=MOST, total=3 * MOST):
        sent = [
            packet
            for n in range(10)
            for packet in flows(bob, (f"100.64.{n}.9", f"fd99::{n}:9"), range(1000, 1010))
        ]
        assert arrive(sent) == [3 * MOST // 2, 3 * MOST // 2]


def test_refused_addresses_are_out_of_reach_until_they_are_refused_no_more(
    hosts, circuit, filter_type, arrive
):
    exit_host, bob = hosts
    own = [ipaddress.ip_network(bob.ipv4.ip), ipaddress.ip_network(bob.ipv6.ip)]
    with limited(exit_host, circuit, filter_type) as made:
        assert arrive(flows(bob, INNER, range(1000, 1003))) == [3, 3]
        exit_host.namespace.call(lambda: made.refuse_destinations(own))
        assert arrive(flows(bob, INNER, range(1000, 1003))) == [0, 0]
        exit_host.namespace.call(lambda: made.refuse_destinations(own[1:]))
        assert arrive(flows(bob, INNER, range(1000, 1003))) == [3, 0]
