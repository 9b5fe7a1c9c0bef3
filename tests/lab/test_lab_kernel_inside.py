"""What the kernel of the laboratory can do, tried inside it."""

import re
import socket
from pathlib import Path

import pytest
from lab_overlay import LabOverlay

from lab.kernel import in_kernel
from lab.namespaces import Namespace
from lab.pinging import pings
from overlay.system.filter_choice import find_packet_filter
from overlay.system.iptables import Iptables

pytestmark = pytest.mark.kernel(time_limit_s=1500)

AEAD_KEY_BYTES = {
    "rfc4106(gcm(aes))": (20, 28, 36),
    "rfc7539esp(chacha20,poly1305)": (36,),
}
CBC_KEY_BYTES = {"cbc(aes)": (16, 24, 32), "cbc(des3_ede)": (24,)}
HMAC_BYTES = {"hmac(sha1)": (20, 96), "hmac(sha256)": (32, 128)}
UDP_ENCAP, UDP_ENCAP_ESPINUDP = 100, 2


def key(length):
    return "0x" + bytes(range(1, length + 1)).hex()


ALGORITHMS = [
    ["aead", name, key(length), "128"] for name, lengths in AEAD_KEY_BYTES.items()
    for length in lengths
] + [
    ["enc", cipher, key(length), "auth-trunc", mac, key(mac_bytes), str(truncated)]
    for cipher, lengths in CBC_KEY_BYTES.items() for length in lengths
    for mac, (mac_bytes, truncated) in HMAC_BYTES.items()
]  # fmt: skip


@pytest.fixture(scope="module")
def pair(laboratory):
    """Two hosts, joined by one cable."""
    with Namespace("left") as left, Namespace("right") as right:
        left.run(["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0",
                  "netns", str(right.pid)])  # fmt: skip
        for host, number in ((left, 1), (right, 2)):
            host.configure([f"address add 10.0.0.{number}/24 dev eth0", "link set eth0 up"])
        yield left, right


def test_the_tests_of_this_module_run_inside():
    assert in_kernel()
    assert "User Mode Linux" in Path("/proc/cpuinfo").read_text()


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: f"{a[1]}-{len(a[2]) // 2 - 1}")
def test_the_kernel_tunnels_esp_in_udp(pair, algorithm):
    spis = {1: "0x1001", 2: "0x1002"}
    sockets = []
    for number, host in enumerate(pair, 1):
        sockets.append(host.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))
        sockets[-1].bind((f"10.0.0.{number}", 4500))
        sockets[-1].setsockopt(socket.IPPROTO_UDP, UDP_ENCAP, UDP_ENCAP_ESPINUDP)
        host.run(["ip", "address", "replace", f"192.0.2.{number}/32", "dev", "lo"])
        host.run(["ip", "route", "replace", f"192.0.2.{3 - number}", "dev", "eth0",
                  "src", f"192.0.2.{number}"])  # fmt: skip
        for source in (1, 2):
            ends = ["src", f"10.0.0.{source}", "dst", f"10.0.0.{3 - source}", "proto", "esp"]
            inner = ["src", f"192.0.2.{source}", "dst", f"192.0.2.{3 - source}"]
            host.run(["ip", "xfrm", "state", "add", *ends, "spi", spis[source], "mode", "tunnel",
                      *algorithm, "encap", "espinudp", "4500", "4500", "0.0.0.0"])  # fmt: skip
            direction = "out" if source == number else "in"
            host.run(["ip", "xfrm", "policy", "add", *inner, "dir", direction,
                      "tmpl", *ends, "mode", "tunnel"])  # fmt: skip
    left, right = pair
    try:
        assert pings(left, "192.0.2.2", count=2).returncode == 0
        assert carried_packets(right, spis[1]) == 2
        assert xfrm_errors(left) == xfrm_errors(right) == {}
    finally:
        for host in pair:
            host.run(["ip", "xfrm", "policy", "flush"])
            host.run(["ip", "xfrm", "state", "flush"])
        for each in sockets:
            each.close()


def carried_packets(host, spi):
    state = host.run(["ip", "-s", "xfrm", "state", "get", "src", "10.0.0.1", "dst", "10.0.0.2",
                      "proto", "esp", "spi", spi]).stdout  # fmt: skip
    return int(re.search(r"bytes\), (\d+)\(packets\)", state).group(1))


def xfrm_errors(host):
    lines = host.run(["cat", "/proc/net/xfrm_stat"]).stdout.splitlines()
    assert len(lines) > 20
    return {name: int(count) for name, count in map(str.split, lines) if int(count)}


def test_cables_can_be_delayed_and_slowed(pair):
    left, right = pair
    left.run(["tc", "qdisc", "add", "dev", "eth0", "root", "netem", "delay", "60ms"])
    right.run(["tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "10mbit",
               "burst", "32kbit", "latency", "50ms"])  # fmt: skip
    answer = left.run(["ping", "-c", "2", "-i", "0.1", "10.0.0.2"]).stdout
    for host in pair:
        host.run(["tc", "qdisc", "delete", "dev", "eth0", "root"])
    assert float(re.search(r"rtt \S+ = ([\d.]+)/", answer).group(1)) >= 60


def test_the_product_finds_legacy_iptables(laboratory):
    with Namespace("host") as host:
        assert isinstance(host.call(find_packet_filter).chosen, Iptables)
        for version in ("iptables-legacy", "ip6tables-legacy"):
            host.run([version, "-t", "nat", "-A", "POSTROUTING", "-j", "MASQUERADE"])


def test_an_overlay_carries_a_download(laboratory, tmp_path):
    with LabOverlay(tmp_path, mixes=0) as overlay:
        overlay.web.publish("file", bytes(100_000))
        overlay.alice.ask("path", "open", overlay.web.address, "--hops", "2")
        assert overlay.fetch() == bytes(100_000)
