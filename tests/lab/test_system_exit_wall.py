# ruff: noqa: F811 - fixtures of another module
"""Nothing with a pool address leaves an exit, whatever becomes of address translation."""

import contextlib
import ipaddress
import json
import socket

import pytest
from scapy.layers import inet
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    IPv6,
)
from scapy.layers.l2 import Ether
from test_system_exit_filter import (  # noqa: F401 - fixtures
    INNER,
    POOLS,
    circuit,
    filter_type,
    hosts,
    installed,
)

from overlay.system.conntrack import forget_connections
from overlay.system.exit_filter import ExitFilter
from overlay.system.exit_networks import exit_gateway
from overlay.system.nftables import Nftables

PORT = 7007
"""Where bob listens."""


def from_circuit(bob, version):
    """The IP header of a packet that a source sends to bob."""
    if version == 4:
        return IP(src=INNER[0], dst=str(bob.ipv4.ip))
    return IPv6(src=INNER[1], dst=str(bob.ipv6.ip))


def strays(bob, version):
    """What connection tracking does not know, or not as part of a connection."""
    header = from_circuit(bob, version)
    segment = {"sport": 4000, "dport": PORT, "seq": 1, "ack": 1}
    quoted = bytes(header / inet.UDP(sport=1, dport=2))
    of_version = {
        4: [
            ICMP(type=0, id=7),
            ICMP(type=3, code=3) / quoted,
            inet.UDP(dport=9, chksum=1) / b"bad checksum",
        ],
        6: [
            ICMPv6EchoReply(id=7),
            ICMPv6DestUnreach(code=4) / quoted,
            ICMPv6ND_NA(tgt=INNER[1]),
            ICMPv6MLReport2(),
            inet.UDP(dport=9, chksum=1) / b"bad checksum",
        ],
    }[version]
    shared = [
        TCP(flags=flags, **segment) for flags in ("R", "RA", "SA", "FPU", "SF", "A", "FA", "")
    ]
    packets = [bytes(header / each) for each in (*shared, *of_version)]
    for protocol in (47, 50, 132, 253):
        named = header.copy()
        setattr(named, "proto" if version == 4 else "nh", protocol)
        packets.append(bytes(named / bytes(24)))
    if version == 4:
        packets.append(bytes(IP(src=INNER[0], dst=str(bob.ipv4.ip), flags="MF", id=9) / bytes(16)))
    return packets


def connected(circuit, bob, version):
    """Open a connection as far as bob's SYN-ACK; return its segments' fields."""
    segment = {"sport": 4100, "dport": PORT}
    circuit.exit_device.write_batch([bytes(from_circuit(bob, version) / TCP(flags="S", **segment))])
    return segment


def assert_silent(packets):
    """No captured packet has an inner address, as its source, destination or inside."""
    for packet in packets:
        assert not any(ipaddress.ip_address(packet.source) in pool for pool in POOLS), packet
        assert not any(ipaddress.ip_address(each).packed in packet.payload for each in INNER)


@pytest.fixture
def listening(hosts):
    _, bob = hosts
    with bob.namespace.call(lambda: socket.create_server(("::", PORT), family=socket.AF_INET6)):
        yield


@pytest.mark.usefixtures("installed", "listening")
def test_what_tracking_does_not_know_stays_at_the_exit(
    hosts,
    circuit,
    exchange,
    tmp_path,
):
    exit_host, bob = hosts
    with exit_host.capture(tmp_path / "exit.pcap") as capture:
        for version, inner in zip((4, 6), INNER, strict=True):
            circuit.exit_device.write_batch(strays(bob, version))
            segment = connected(circuit, bob, version)
            exchange(exit_host, bob)
            for flags in ("A", "R"):
                late = TCP(flags=flags, seq=1 << 30, ack=1 << 30, **segment)
                circuit.exit_device.write_batch([bytes(from_circuit(bob, version) / late)])
            packed = ipaddress.ip_address(inner).packed
            assert exit_host.namespace.call(lambda p=packed: forget_connections(p)) > 0
            late = TCP(flags="R", seq=1, **segment)
            circuit.exit_device.write_batch([bytes(from_circuit(bob, version) / late)])
        exchange(exit_host, bob)
    seen = list(capture.packets())
    assert_silent(seen)
    arrived = {p.version for p in seen if p.destination_port == PORT and p.source_port == 4100}
    assert arrived == {4, 6}, "the connection itself is translated"


def without_translation(namespace, filter_type):
    if filter_type is Nftables:
        namespace.run(["nft", "flush", "chain", "inet", "anonymous_overlay_exit", "translation"])
        return
    for program in ("iptables-legacy", "ip6tables-legacy"):
        namespace.run([program, "-t", "nat", "-F", "AO-exit-NAT"])


def without_any_rule(namespace, filter_type):
    if filter_type is Nftables:
        namespace.run(["nft", "flush", "ruleset"])
        return
    for program in ("iptables-legacy", "ip6tables-legacy"):
        for table in ("mangle", "nat"):
            namespace.run([program, "-t", table, "-F"])


def without_tracking(namespace, filter_type):  # raw is there for both
    for program in ("iptables-legacy", "ip6tables-legacy"):
        for chain in ("PREROUTING", "OUTPUT"):
            namespace.run([program, "-t", "raw", "-A", chain, "-j", "CT", "--notrack"])


@pytest.mark.parametrize("spoil", [without_translation, without_any_rule, without_tracking])
@pytest.mark.usefixtures("installed")
def test_nothing_leaves_untranslated_when_others_spoil_the_rules(
    hosts,
    circuit,
    filter_type,
    spoil,
    exchange,
    tmp_path,
):
    exit_host, bob = hosts
    spoil(exit_host.namespace, filter_type)
    gateways = [str(exit_gateway(pool)) for pool in POOLS]

    def say_something_as_the_exit_itself():
        for gateway, address in zip(gateways, (bob.ipv4.ip, bob.ipv6.ip), strict=True):
            family = socket.AF_INET6 if ":" in gateway else socket.AF_INET
            with socket.socket(family, socket.SOCK_DGRAM) as new:
                new.bind((gateway, 0))
                with contextlib.suppress(PermissionError):  # a rule of the packet filter dropped it
                    new.sendto(b"x", (str(address), PORT))

    with exit_host.capture(tmp_path / "exit.pcap") as capture:
        for version in (4, 6):
            packet = from_circuit(bob, version) / inet.UDP(sport=5, dport=PORT) / b"x"
            circuit.exit_device.write_batch([bytes(packet)])
        exit_host.namespace.call(say_something_as_the_exit_itself)
        exchange(exit_host, bob)
    assert_silent(capture.packets())


@pytest.mark.usefixtures("installed")
def test_neighbours_cannot_send_through_the_exit_under_a_pool_address(
    hosts,
    exchange,
    tmp_path,
):
    """The exit's host forwards on its outward device; a neighbour may borrow no inner address."""
    exit_host, bob = hosts
    exit_host.namespace.set_kernel(ipv4__conf__all__rp_filter=0, ipv4__conf__eth0__rp_filter=0)
    shown = exit_host.namespace.run(["ip", "-j", "link", "show", "dev", "eth0"]).stdout
    address = json.loads(shown)[0]["address"]

    def spoof():
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind((exit_host.core_interface, 0))
            for version in (4, 6):
                packet = from_circuit(bob, version) / inet.UDP(sport=5, dport=PORT) / b"x"
                raw.send(bytes(Ether(dst=address) / packet))

    with exit_host.capture(tmp_path / "exit.pcap") as capture:
        exit_host.core.call(spoof)
        exchange(exit_host, bob)
    versions = [p.version for p in capture.packets() if p.destination_port == PORT]
    assert versions == [4, 6], "each came in once, and none went out again"


def test_a_device_that_appears_later_gets_the_wall(hosts, installed):
    exit_host, _ = hosts
    exit_host.namespace.configure(["link add late type veth peer name other"])
    exit_host.namespace.call(installed.refresh)
    shown = ["tc", "filter", "show", "dev", "late", "egress"]
    assert "pref 28004 bpf" in exit_host.namespace.run(shown).stdout


OTHER_PROGRAM = "tc filter add dev eth0 egress prio 7 protocol ip bpf da bytecode".split()  # noqa: SIM905


def test_the_wall_below_the_filter_goes_with_the_exit_and_leaves_others_alone(
    hosts, circuit, filter_type
):
    exit_host, _ = hosts

    def shown():
        commands = ("tc qdisc show dev eth0", "tc filter show dev eth0 egress")
        return [exit_host.namespace.run(each.split()).stdout for each in commands]

    def install_and_look():
        with ExitFilter(circuit.exit_device.name, POOLS, packet_filter=filter_type()):
            return shown()

    before = shown()
    assert "pref 28004 bpf" in exit_host.namespace.call(install_and_look)[1]
    assert shown() == before
    exit_host.namespace.run(["tc", "qdisc", "add", "dev", "eth0", "clsact"])
    exit_host.namespace.run([*OTHER_PROGRAM, "1,6 0 0 4294967295"])
    with_others = shown()
    exit_host.namespace.call(install_and_look)
    assert shown() == with_others
