"""The fragmenting device by itself: what is cut, where it goes on to, and what is left of it."""

import ipaddress
import os
import socket
import sys
from pathlib import Path

import pytest

from lab.capture import Capture
from lab.reading import UDP
from overlay.system.fragmenting_device import (
    REROUTE_MARK,
    FragmentingDevice,
    clear_fragmenting_leftovers,
    try_fragmenting,
)
from overlay.system.kill_switch import KILL_SWITCH_TABLE, KillSwitch
from overlay.system.rtnetlink import MAIN_TABLE, Route, RouteKind, Rtnetlink
from overlay.system.tun import TunDevice

DESTINATION, NETWORK = "203.0.113.10", ipaddress.ip_network("203.0.113.10/32")
INNER = ipaddress.ip_address("100.64.1.2")
MTU = 1038
FRAGMENT = MTU - (MTU - 20) % 8
SO_MARK = 36
OWNED = "ip rule; ip -4 route show table all; ip -br link; ls /proc/sys/net/ipv4/conf"

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="packet programs are for root of the host itself"
)

OWNER = """
import sys
from overlay.system.fragmenting_device import FragmentingDevice
device = FragmentingDevice()
print("ready", flush=True)
sys.stdin.read()
"""

TRIAL = """
from overlay.errors import BackendError
from overlay.system.fragmenting_device import try_fragmenting
try:
    try_fragmenting()
except BackendError as refusal:
    print(refusal)
"""


@pytest.fixture
def cutting(namespace):
    """The device in a namespace, and a route to it from an inner address."""

    def make():
        made = FragmentingDevice()
        with Rtnetlink() as netlink:
            netlink.add_address(holder.name, INNER)
            route = Route(
                NETWORK, RouteKind.UNICAST, MAIN_TABLE, 1, made.name, INNER, MTU, rerouted=True
            )
            netlink.put_route(route, made.program)
        return made

    holder = namespace.call(lambda: TunDevice.open("inner%d", 1400))
    made = namespace.call(make)
    yield made
    namespace.call(made.close)
    holder.close()


def send(namespace, size, mark=0):
    def send_here():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as new:
            new.setsockopt(socket.SOL_SOCKET, SO_MARK, mark)
            new.sendto(bytes(size), (DESTINATION, 5000))

    namespace.call(send_here)


def seen_beyond(namespace, tmp_path, action):
    """Return what reaches the second device while something is done."""
    with Capture(namespace, "anonfrag1", tmp_path / "beyond.pcap") as capture:
        action()
    return [packet for packet in capture.packets() if packet.protocol == UDP]


def test_a_large_packet_goes_on_in_fragments_of_the_routes_mtu(namespace, cutting, tmp_path):
    assert cutting.name == "anonfrag0"
    packets = seen_beyond(namespace, tmp_path, lambda: send(namespace, 3000))
    assert [packet.length for packet in packets] == [FRAGMENT, FRAGMENT, 3028 - 2 * (FRAGMENT - 20)]
    assert {packet.destination for packet in packets} == {DESTINATION}
    assert {packet.source for packet in packets} == {str(INNER)}


def test_a_small_packet_goes_on_as_it_is(namespace, cutting, tmp_path):
    packets = seen_beyond(namespace, tmp_path, lambda: send(namespace, 500))
    assert [packet.length for packet in packets] == [528]


def test_without_the_rule_it_is_dropped_and_does_not_go_round(namespace, cutting, tmp_path):
    namespace.call(clear_fragmenting_leftovers)
    assert seen_beyond(namespace, tmp_path, lambda: send(namespace, 3000)) == []


def test_the_kill_switch_takes_what_it_says_of_a_route_from_the_kernel(namespace, cutting):
    def carried():
        with KillSwitch(by_ipsec=True) as kill_switch:
            kill_switch.protect(NETWORK)
            kill_switch.carry(NETWORK, cutting.name, INNER.packed, MTU, program=cutting.program)
            with Rtnetlink() as netlink:
                (found,) = [
                    r for r in netlink.routes(KILL_SWITCH_TABLE) if r.kind is RouteKind.UNICAST
                ]
            kill_switch.release(NETWORK)
        return found

    found = namespace.call(carried)
    assert (found.rerouted, found.device, found.mtu) == (True, cutting.name, MTU)


def test_closing_leaves_nothing(namespace):
    before = namespace.run(["sh", "-c", OWNED]).stdout
    with namespace.call(FragmentingDevice) as device:
        assert device.name in namespace.run(["sh", "-c", OWNED]).stdout
        namespace.call(device.close)
        assert namespace.run(["sh", "-c", OWNED]).stdout == before


def test_what_a_killed_owner_leaves_is_harmless_and_found(namespace, script):
    before = namespace.run(["sh", "-c", OWNED]).stdout
    script(namespace, OWNER).kill()
    left = namespace.run(["sh", "-c", OWNED]).stdout
    assert set(left.splitlines()) - set(before.splitlines()) == {
        f"108:\tfrom all fwmark {REROUTE_MARK:#x}/0xfffeffff lookup {REROUTE_MARK} proto 109"
    }
    namespace.call(namespace.call(FragmentingDevice).close)
    assert namespace.run(["sh", "-c", OWNED]).stdout == before
    script(namespace, OWNER).kill()
    namespace.call(clear_fragmenting_leftovers)
    assert namespace.run(["sh", "-c", OWNED]).stdout == before


def test_a_trial_disturbs_no_node_that_runs(namespace, cutting):
    before = namespace.run(["sh", "-c", OWNED]).stdout
    namespace.call(try_fragmenting)
    assert namespace.run(["sh", "-c", OWNED]).stdout == before


def test_inside_a_user_namespace_it_is_refused_with_a_remedy(namespace):
    path = f"PYTHONPATH={Path(__file__).parents[2]}"
    command = ["unshare", "--user", "--map-root-user", "--net", "env", path, sys.executable]
    said = namespace.run([*command, "-c", TRIAL]).stdout.strip()
    assert said.startswith("loading a packet program failed (Operation not permitted)")
    assert "CAP_BPF" in said
