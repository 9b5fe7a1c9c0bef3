"""Packets that exceed a link or the inner MTU, on the kernel backend."""

import contextlib
import itertools
import json
import socket

import pytest
from kernel_overlay import BUSY_S, KernelOverlay, client

from lab.nodes import wait_until
from lab.reading import UDP
from overlay.errors import OverlayError
from overlay.system.fragmenting_device import REROUTE_MARK

pytestmark = pytest.mark.kernel(time_limit_s=1800)

NAMES = ["mix1k", "mix2k", "mix3k", "exitk", "exitu", "alicek"]
CHAINS = [
    ["exitk"],
    ["mix1k", "exitk"],
    ["mix1k", "mix2k", "exitk"],
    ["mix1k", "mix2k", "mix3k", "exitk"],
    ["mix1k", "exitu"],
    ["mix1k", "mix2k", "mix3k", "exitu"],
]
ECHO_BYTES = 3000
PIECE_BYTES = 1280
"""Of data in a fragment of 1,300 bytes over IPv4."""
FULL_BYTES = 1500
"""On the wire: the first of two pieces, since 1,300 bytes take 1,592 in three layers and a link."""

DATAGRAM_BYTES = (1100, 1300, 2000, 4000, 40_000)
"""Above what fits a link, just above the inner MTU, and in several fragments."""

QUIC_BYTES = (1200, 1252)
"""UDP payloads: the least of RFC 9000, and what implementations send over IPv6 without probing."""
QUIC_CHAINS = [["exitu", "mix1k", "exitk"], ["mix1k", "mix2k", "exitu"]]
"""Relays and exits of both backends, and two kernel relays in a row."""
IP_MTU_DISCOVER = {4: (socket.IPPROTO_IP, 10), 6: (socket.IPPROTO_IPV6, 23)}
DO, PROBE = 2, 3


@pytest.fixture(scope="module")
def overlay(tmp_path_factory, laboratory):
    with KernelOverlay(tmp_path_factory.mktemp("overlay"), NAMES) as made:
        yield made


@pytest.mark.parametrize(
    ("version", "hops"),
    [
        *((4, hops) for hops in CHAINS),
        # Between hops nothing differs, so the shortest chain and the longest of each exit suffice.
        *((6, hops) for hops in (CHAINS[0], CHAINS[3], CHAINS[5])),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else value,
)
def test_what_is_larger_than_the_inner_mtu_goes_there_and_back(overlay, version, hops):
    target = overlay.targets()[version == 6]
    with overlay.path("alicek", hops, target):
        # Bob learns the exit's MTU. The answer that teaches it is lost, so the wait is short.
        overlay.ping("alicek", target, check=False, size=ECHO_BYTES, patience_s=1)
        overlay.ping("alicek", target, size=ECHO_BYTES)
        for size in DATAGRAM_BYTES:
            overlay.udp_learning_the_mtu("alicek", target, bytes(range(250)) * (size // 250))
        overlay.tcp_both_ways("alicek", target)
    assert overlay.error_counters() == {}


def mtu(overlay):
    with client(overlay.nodes["alicek"]) as asked:
        (path,) = asked.paths()
    return path.mtu


def wait_for_large_packets(overlay, exit_name):
    for version in (4, 6):  # Bob may remember a smaller size from the circuits of other tests
        overlay.bob.namespace.run(["ip", f"-{version}", "route", "flush", "cache"])
    wait_until("an MTU of 1300", lambda: mtu(overlay) == 1300, timeout_s=BUSY_S)
    if exit_name == "exitk":
        exit_host = overlay.namespace(exit_name)
        wait_until(
            "large answers",
            lambda: "mtu 1300" in exit_host.run(["sh", "-c", "ip route; ip -6 route"]).stdout,
            timeout_s=BUSY_S,
        )


@pytest.mark.parametrize("hops", QUIC_CHAINS, ids="-".join)
def test_datagrams_of_quic_pass_three_hops_whole(overlay, hops):
    for target in overlay.targets():
        with overlay.path("alicek", hops, target):
            wait_for_large_packets(overlay, hops[-1])
            for size, discover in itertools.product(QUIC_BYTES, (DO, PROBE)):
                assert echoed(overlay, target, size, discover) == size, (target, size, discover)
            most = 1300 - (28 if target.version == 4 else 48)
            assert echoed(overlay, target, most, DO) == most
            for discover in (DO, PROBE):
                with pytest.raises(OSError, match="too long"):
                    echoed(overlay, target, most + 1, discover)
    assert overlay.error_counters() == {}


@contextlib.contextmanager
def line_without_fragments(overlay, name):
    """Drop IP fragments between a host and the core."""
    host = overlay.nodes[name].host
    rules = [f"FORWARD {way} {host.core_interface} -f -j DROP" for way in ("-i", "-o")]
    try:
        for rule in rules:
            overlay.underlay.core.run(["sh", "-c", f"iptables-legacy -A {rule}"])
        yield
    finally:
        for rule in rules:
            overlay.underlay.core.run(["sh", "-c", f"iptables-legacy -D {rule}"])


def test_packets_keep_their_usual_size_on_a_line_that_drops_fragments(overlay):
    with line_without_fragments(overlay, "alicek"):
        for target in overlay.targets():
            with overlay.path("alicek", ["mix1k", "mix2k", "exitk"], target):
                overlay.tcp_both_ways("alicek", target)
                if target.version == 4:  # servers over IPv6 send 1,280 bytes whatever we say
                    overlay.udp_learning_the_mtu("alicek", target, bytes(2000))
                with pytest.raises(OSError, match="too long"):
                    echoed(overlay, target, 1200, DO)
                assert mtu(overlay) == 1038


def test_tcp_sends_what_one_datagram_carries(overlay, tmp_path):
    host = overlay.nodes["alicek"].host
    for target in overlay.targets():
        with (
            overlay.path("alicek", CHAINS[2], target),
            host.capture(tmp_path / f"{target.version}.pcap") as capture,
        ):
            overlay.tcp_both_ways("alicek", target)
        wire = [each for each in capture.packets() if each.protocol == UDP]
        assert len(wire) > 100
        assert max(each.length for each in wire) < FULL_BYTES
        assert not [each for each in wire if not each.source_port], "fragments"


def echoed(overlay, target, size, discover):
    """Send a datagram that may not be fragmented to Bob and back; return the size of the answer."""
    family = socket.AF_INET if target.version == 4 else socket.AF_INET6
    option = IP_MTU_DISCOVER[target.version]

    def end():
        made = socket.socket(family, socket.SOCK_DGRAM)
        made.setsockopt(*option, discover)
        made.settimeout(20)
        return made

    with overlay.bob.namespace.call(end) as server, overlay.namespace("alicek").call(end) as client:
        server.bind((str(target), 0))
        client.connect(server.getsockname()[:2])
        client.send(bytes(size))
        question, asker = server.recvfrom(65_535)
        server.sendto(question, asker)
        return len(client.recv(65_535))


def test_on_the_wire_each_fragment_is_a_datagram_of_its_own(overlay, tmp_path):
    """Encrypted whole, they would be few large datagrams in pieces that no relay can pass on."""
    target, host = overlay.targets()[0], overlay.nodes["alicek"].host
    with (
        overlay.path("alicek", CHAINS[2], target),
        host.capture(tmp_path / "wire.pcap") as capture,
    ):
        wait_for_large_packets(overlay, "exitk")
        overlay.udp_both_ways("alicek", target, bytes(4000))
        overlay.ping("alicek", target, size=ECHO_BYTES)
    packets = [packet for packet in capture.packets() if packet.protocol == UDP]
    full = [packet for packet in packets if packet.source_port and packet.length == FULL_BYTES]
    assert len(full) >= 2 * (4000 // PIECE_BYTES + 3 * (ECHO_BYTES // PIECE_BYTES)), "both ways"
    # What comes out of IPsec is seen here once more, as it is for the host.
    assert str(target) not in {packet.destination for packet in packets}


def test_a_large_packet_goes_nowhere_until_the_node_restores_its_lost_rule(overlay, tmp_path):
    target, namespace = overlay.targets()[0], overlay.namespace("alicek")
    rules = ["ip", "-j", "rule", "show", "pref", "108"]
    with overlay.path("alicek", CHAINS[1], target):
        overlay.ping("alicek", target, size=ECHO_BYTES)
        before = json.loads(namespace.run(rules).stdout)
        assert len(before) == 1
        with overlay.nodes["alicek"].host.capture(tmp_path / "wire.pcap") as capture:
            namespace.configure([f"rule delete fwmark {REROUTE_MARK}/0xfffeffff"
                                 f" lookup {REROUTE_MARK} pref 108 protocol 109"])  # fmt: skip
            # Some of these are sent while the rule is missing: they may be lost, not shown.
            overlay.ping("alicek", target, check=False, size=ECHO_BYTES)
            wait_until(
                "large packets pass again",
                lambda: overlay.ping("alicek", target, check=False, size=ECHO_BYTES),
                timeout_s=BUSY_S,
            )
        assert str(target) not in {str(packet.destination) for packet in capture.packets()}
        assert json.loads(namespace.run(rules).stdout) == before
    assert overlay.error_counters() == {}


def test_a_killed_source_leaks_no_fragment_and_the_next_start_mends_it(overlay, tmp_path):
    target, alice = overlay.targets()[0], overlay.nodes["alicek"]
    with client(alice) as asked:
        asked.open_paths(overlay.request(CHAINS[1], target))
    overlay.ping("alicek", target, size=ECHO_BYTES)
    alice.kill()
    with alice.host.capture(tmp_path / "killed.pcap") as capture:
        assert not overlay.ping("alicek", target, check=False, size=ECHO_BYTES, patience_s=2)
    assert str(target) not in {str(packet.destination) for packet in capture.packets()}
    alice.start(overlay.nodes["mix1k"])
    wait_until("alice's restart", lambda: alice.answers and carries(alice), timeout_s=BUSY_S)
    overlay.ping("alicek", target, size=ECHO_BYTES)
    with client(alice) as asked:
        asked.close_path(None)


def test_stopped_nodes_leave_their_hosts_as_they_were(overlay):
    overlay.stop()
    assert {name: overlay.state(name) for name in NAMES} == overlay.untouched


def carries(node):
    try:
        with client(node) as asked:
            return [path.state for path in asked.paths()] == ["open"]
    except OverlayError:  # it does not answer yet
        return False
