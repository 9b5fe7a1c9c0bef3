"""What programs and servers send in pieces larger than the inner MTU, on the kernel backend."""

import json

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
FULL_BYTES = 60 + 1268
"""On the wire: 1,036 inner bytes (a multiple of 8 behind the header) in three layers and the link,
over IPv4: 72 + 1040, 72 + 1116, 72 + 1192, and 60 + 1268 (docs/architecture.md, "Sizes")."""

DATAGRAM_BYTES = (1100, 1300, 2000, 4000, 40_000)
"""Just above the inner MTU, between it and IPv6's least, and in several fragments."""


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


def test_on_the_wire_each_fragment_is_a_datagram_of_its_own(overlay, tmp_path):
    """Encrypted whole, they would be few large datagrams in pieces that no relay can pass on."""
    target, host = overlay.targets()[0], overlay.nodes["alicek"].host
    with (
        overlay.path("alicek", CHAINS[2], target),
        host.capture(tmp_path / "wire.pcap") as capture,
    ):
        overlay.udp_both_ways("alicek", target, bytes(4000))
        overlay.ping("alicek", target, size=ECHO_BYTES)
    packets = [packet for packet in capture.packets() if packet.protocol == UDP]
    full = [packet for packet in packets if packet.source_port and packet.length == FULL_BYTES]
    assert len(full) >= 2 * (4000 // 1016 + 3 * (ECHO_BYTES // 1016)), "both ways"
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
            namespace.configure([f"rule delete fwmark {REROUTE_MARK} lookup {REROUTE_MARK} pref 108"
                                 " protocol 109"])  # fmt: skip
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
