"""The detour of packets that fit no link: they alone take it, and are cut where the link begins."""

import os
import socket

import pytest

from lab.reading import UDP
from overlay.system.kill_switch import NODE_MARK
from overlay.system.link_detour import LinkDetour, clear_link_detour_leftovers
from overlay.system.packet_filter import LARGE_MARK

SO_MARK = 36
MTU = 1500
LARGE = NODE_MARK | LARGE_MARK
OWNED = (
    "ip rule; ip -6 rule; ip -4 route show table all; ip -br link; "
    # But for link-local routes, which come when duplicate address detection has ended.
    "ip -6 route show table all | grep -v -e fe80: -e ff00:"
)

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="packet programs are for root of the host itself"
)

OWNER = """
import sys
from overlay.system.link_detour import LinkDetour
detour = LinkDetour()
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def hosts(wire_underlay):
    return wire_underlay.add_host("alice"), wire_underlay.add_host("mix1")


@pytest.fixture
def detour(hosts):
    alice = hosts[0].namespace
    made = alice.call(LinkDetour)
    yield made
    alice.call(made.close)


def sent(hosts, tmp_path, address, size, mark):
    """Return the packets in which one datagram leaves the host of alice."""
    alice = hosts[0]

    def send():
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as new:
            new.setsockopt(socket.SOL_SOCKET, SO_MARK, mark)
            new.sendto(bytes(size), (address, 4500))

    with alice.capture(tmp_path / "wire.pcap") as wire:
        alice.namespace.call(send)
    return [packet for packet in wire.packets() if packet.protocol == UDP]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("mark", [LARGE, NODE_MARK])
def test_a_large_packet_leaves_in_two_pieces_for_the_same_peer(
    hosts, detour, tmp_path, version, mark
):
    peer = str(hosts[1].ipv4.ip if version == 4 else hosts[1].ipv6.ip)
    packets = sent(hosts, tmp_path, peer, 1600, mark)
    assert [packet.destination for packet in packets] == [peer, peer]
    assert all(packet.length <= MTU for packet in packets)
    assert [bool(packet.source_port) for packet in packets] == [True, False]


@pytest.mark.parametrize("version", [4, 6])
def test_without_the_mark_of_the_node_nothing_takes_it(hosts, detour, tmp_path, version):
    alice, peer = hosts[0].namespace, hosts[1]
    address = str(peer.ipv4.ip if version == 4 else peer.ipv6.ip)
    for mark, expected in ((LARGE, "anonlink0"), (LARGE_MARK, "eth0"), (NODE_MARK, "eth0")):
        told = alice.run(["ip", "route", "get", address, "mark", str(mark)]).stdout
        assert f"dev {expected} " in told, told


def test_closing_and_clearing_leave_nothing(hosts, script):
    alice = hosts[0].namespace
    before = alice.run(["sh", "-c", OWNED]).stdout
    alice.call(alice.call(LinkDetour).close)
    assert alice.run(["sh", "-c", OWNED]).stdout == before
    script(alice, OWNER).kill()
    left = set(alice.run(["sh", "-c", OWNED]).stdout.splitlines()) - set(before.splitlines())
    assert left == {f"107:\tfrom all fwmark {LARGE:#x} lookup 28012 proto 109"}
    alice.call(clear_link_detour_leftovers)
    assert alice.run(["sh", "-c", OWNED]).stdout == before
