"""Which packet sizes pass a path of three hops, and what follows from ``path_mtu``."""

import itertools
import socket
import subprocess
import sys

import pytest
from lab_overlay import LabOverlay

from lab.reading import TCP

pytestmark = pytest.mark.lab

IP_MTU_DISCOVER = {4: (socket.IPPROTO_IP, 10), 6: (socket.IPPROTO_IPV6, 23)}
DO, PROBE = 2, 3
QUIC_BYTES = (1200, 1232, 1250, 1252)
"""UDP payloads: the least of RFC 9000, what fits 1,280 over IPv6, Chromium's, and msquic's."""

PORT = 4433
CONTENT = bytes(range(256)) * 4000

# The server forbids fragmentation as well, so that both directions must carry the size.
ECHO = f"""
import socket, selectors
ready = selectors.DefaultSelector()
options = (socket.AF_INET, {IP_MTU_DISCOVER[4]}), (socket.AF_INET6, {IP_MTU_DISCOVER[6]})
for family, option in options:
    server = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    server.setsockopt(*option, {DO})
    server.bind(("", {PORT}))
    ready.register(server, selectors.EVENT_READ)
print("ready", flush=True)
while True:
    for key, _ in ready.select():
        key.fileobj.sendto(*key.fileobj.recvfrom(65535))
"""

SINK = f"""
import socket
server = socket.create_server(("", {PORT}), family=socket.AF_INET6, dualstack_ipv6=True)
print("ready", flush=True)
while True:
    client, _ = server.accept()
    with client:
        client.sendall(str(sum(map(len, iter(lambda: client.recv(65536), b"")))).encode())
"""

FRAGMENTS = """
add table inet narrow
add chain inet narrow first {{ type filter hook prerouting priority -450; }}
add rule inet narrow first iifname {0} ip frag-off & 0x3fff != 0 counter drop
add rule inet narrow first iifname {0} exthdr frag exists counter drop
"""


@pytest.fixture(scope="module")
def overlay(tmp_path_factory):
    with LabOverlay(tmp_path_factory.mktemp("sizes"), wire_packets=True) as made:
        made.web.publish("file", CONTENT)
        programs = [
            made.bob.namespace.popen([sys.executable, "-c", text], stdout=subprocess.PIPE)
            for text in (ECHO, SINK)
        ]
        assert [each.stdout.readline() for each in programs] == [b"ready\n"] * 2
        yield made
        for each in programs:
            each.kill()
            each.wait()


def targets(overlay):
    return {4: str(overlay.bob.ipv4.ip), 6: str(overlay.bob.ipv6.ip)}


def open_path(overlay):
    for target in targets(overlay).values():
        overlay.alice.ask("path", "open", target, "--hops", "3")
    return overlay.alice.ask("path", "list")


def echoed(overlay, target, size, discover):
    """Send a datagram that may not be fragmented; return what comes back."""

    def exchange():
        version = 6 if ":" in target else 4
        family = socket.AF_INET6 if version == 6 else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as client:
            client.setsockopt(*IP_MTU_DISCOVER[version], discover)
            client.settimeout(3)
            client.connect((target, PORT))
            for _ in range(3):
                client.send(bytes(size))
                try:
                    return len(client.recv(65535))
                except TimeoutError:
                    continue
        return 0

    return overlay.alice.host.namespace.call(exchange)


def test_datagrams_of_quic_pass_three_hops_unfragmented_for_the_program(overlay):
    assert {path["mtu"] for path in open_path(overlay)} == {1300}
    for (version, target), size, discover in itertools.product(
        targets(overlay).items(), QUIC_BYTES, (DO, PROBE)
    ):
        assert echoed(overlay, target, size, discover) == size, (version, size, discover)


def restart(overlay):
    overlay.alice.stop()
    overlay.alice.start(overlay.nodes["boot"])
    overlay.wait_known(overlay.alice)
    return open_path(overlay)


def upload(overlay, target):
    """Send the content over TCP; return how much the server has read."""

    def send():
        with socket.create_connection((target, PORT), timeout=20) as client:
            client.sendall(CONTENT)
            client.shutdown(socket.SHUT_WR)
            return int(client.recv(100))

    return overlay.alice.host.namespace.call(send)


def test_a_program_learns_the_largest_size(overlay):
    for version, target in targets(overlay).items():
        headers = 28 if version == 4 else 48
        assert echoed(overlay, target, 1300 - headers, DO) == 1300 - headers
        with pytest.raises(OSError, match="too long"):
            echoed(overlay, target, 1301 - headers, DO)


def test_transfers_pass_a_line_of_1280_bytes_that_drops_fragments(overlay, tmp_path):
    """Larger packets vanish without a word towards the core, and become fragments from there."""
    host = overlay.alice.host
    host.core.configure([f"link set {host.core_interface} mtu 1280"])
    host.namespace.run(["nft", FRAGMENTS.format(host.interface)])
    restart(overlay)
    with host.capture(tmp_path / "line.pcap") as capture:
        for target in targets(overlay).values():
            assert upload(overlay, target) == len(CONTENT)
            for size in QUIC_BYTES:
                assert echoed(overlay, target, size, DO) == size
        assert overlay.fetch() == CONTENT
    lengths = [
        packet.length for packet in capture.packets() if packet.source == overlay.alice.address
    ]
    assert sorted(lengths)[len(lengths) * 9 // 10] <= 1280, "but for probes"
    for path in overlay.alice.ask("path", "list"):
        # UDP and IPv4 take 28 bytes of 1,280; 1,200 are in use until the search is over.
        assert 1200 <= path["link_bytes"] <= 1280 - 28
        assert path["whole_bytes"] < path["link_bytes"] - 3 * 74 < path["mtu"]
    linked = [peer for peer in overlay.alice.ask("peers") if peer["linked"]]
    assert all(1200 <= peer["link_bytes"] <= 1252 for peer in linked)
    assert overlay.alice.ask("status")["link_bytes"]


def test_path_mtu_rules_routes_and_segments(overlay, tmp_path):
    alice = overlay.alice
    with alice.configuration.open("a") as file:
        file.write("\n[forwarding.standard]\npath_mtu = 900\n")
    assert {path["mtu"] for path in restart(overlay)} == {900}
    for version, target in targets(overlay).items():
        headers = 28 if version == 4 else 48
        assert echoed(overlay, target, 900 - headers, DO) == 900 - headers
        with pytest.raises(OSError, match="too long"):
            echoed(overlay, target, 901 - headers, DO)
    with overlay.bob.capture(tmp_path / "bob.pcap") as capture:
        assert overlay.fetch() == CONTENT
    assert max(packet.length for packet in capture.packets() if packet.protocol == TCP) == 900
