"""Nothing opens by itself: real nodes end in every way, and a capture outside sees it.

One overlay for all checks, because most of the time is its start. Alice's node and programs end;
what leaves her host is captured from the first "path open" to the last "--release".
"""

import copy
import ipaddress
import json
import signal
import socket
import sys

import pytest
from lab_overlay import LabOverlay

from lab.namespaces import LabError
from lab.nodes import PORT, wait_until
from lab.reading import ARP, ICMP, UDP
from overlay.control.client import ControlClient, NoNodeAnswers
from overlay.control.service import OpenPathsRequest

PROGRAM = """
import ipaddress, sys, trio
from pathlib import Path
from overlay.config import load_configuration
from overlay.keyfile import read_identity
from overlay.node import OverlayNode

async def main():
    configuration = load_configuration(Path(sys.argv[1]))
    async with OverlayNode(configuration, read_identity(configuration.node.key_file)) as node:
        async with node.anonymous_path(ipaddress.ip_network(sys.argv[2])) as path:
            print(path.report().state, flush=True)
            raise LookupError("as programs do")

trio.run(main)
"""
TAKEN_OVER = PROGRAM.replace('raise LookupError("as programs do")', "pass")


@pytest.fixture(scope="module")
def overlay(laboratory, tmp_path_factory):
    directory = tmp_path_factory.mktemp("lifecycle")
    with LabOverlay(directory, mixes=0, settings="[selection]\nhops = 2\n") as made:
        made.web.publish("small", b"small")
        yield made


def test_every_end_of_a_node_keeps_its_destination_blocked(overlay, tmp_path):
    alice, web = overlay.alice, overlay.web.address
    with alice.host.capture(tmp_path / "alice.pcap") as capture:
        with client(alice) as asked:
            [opened] = asked.open_paths(OpenPathsRequest((network(web),), 1, both_versions=True))
        assert opened.stays_open
        assert overlay.fetch("small") == b"small"
        alice.send_signal(signal.SIGHUP)
        assert overlay.fetch("small") == b"small", "a hang-up is no stop"
        for end in (stopped, terminated, killed):
            end(alice)
            try_in_the_clear(overlay)
            restart(alice)
            assert overlay.fetch("small") == b"small"
            with client(alice) as asked:
                (path,) = asked.paths()
            assert (len(path.hops), path.both_versions) == (1, True)
        interrupted(alice)
        died = run_program(alice, PROGRAM, web)
        assert (died.returncode, died.stdout) == (1, "open\n"), died.stderr
        assert "LookupError: as programs do" in died.stderr
        try_in_the_clear(overlay)
    assert outside_the_circuit(capture.packets(), overlay) == []
    again = run_program(alice, TAKEN_OVER, web)
    assert (again.returncode, again.stdout) == (0, "open\n"), again.stderr
    assert reaches(overlay), "a scope that was left normally frees its destination"
    assert ipv6_reaches(overlay), "and the other IP version with it"


def test_what_is_remembered_is_blocked_by_a_reboot_before_the_node_joins(overlay, tmp_path):
    alice, web = overlay.alice, overlay.web.address
    start(alice, overlay.nodes["boot"])
    with client(alice) as asked:
        asked.open_paths(OpenPathsRequest((network(web),)))
    alice.stop()
    alice = overlay.nodes["alice"] = rebooted(overlay, alice)
    assert reaches(overlay), "the kernel has forgotten everything"
    permanent = "198.51.100.77"
    with alice.configuration.open("a") as file:
        file.write(f'[paths]\npermanent = ["{permanent}"]\n')
    with alice.host.namespace.call(bound_udp_port):
        alice.start()  # fails: another program has the port
        wait_until("the failed start", lambda: not alice.running, timeout_s=60)
    assert not reaches(overlay), "blocked, though the start failed"
    with pytest.raises(LabError, match="2 destinations on this host are blocked"):
        alice.ask("status")
    restart(alice)
    assert overlay.fetch("small") == b"small"
    with client(alice) as asked:
        listed = asked.paths()
    assert {each.destination: each.permanent for each in listed} == {
        f"{web}/32": False,
        f"{permanent}/32": True,
    }
    assert "again at the next start" in alice.cli(
        "path", "close", permanent, "--config", str(alice.configuration)
    )
    with client(alice) as asked:
        asked.close_path(network(web))
    assert reaches(overlay)


def test_destinations_are_freed_with_and_without_a_node(overlay):
    alice, web = overlay.alice, overlay.web.address
    other = str(overlay.bob.ipv6.ip)
    opened = alice.ask("path", "open", web, other)
    assert [path["destination"] for path in opened] == [f"{web}/32", f"{other}/128"]
    said = alice.ask("stop", "--release")
    assert (said["released"], said["blocked"]) == (2, 0)
    assert reaches(overlay)
    assert ipv6_reaches(overlay)
    restart(alice, states=set())
    with client(alice) as asked:
        asked.open_paths(OpenPathsRequest((network(other),), both_versions=True))
        assert not reaches(overlay)
        asked.open_paths(OpenPathsRequest((network(web),)))
    assert overlay.fetch("small") == b"small", "the longest prefix decides"
    killed(alice)
    assert not reaches(overlay)
    with pytest.raises(LabError, match=r"run as root|CAP_NET_ADMIN"):
        alice.host.namespace.run(
            ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all", *release(alice)]
        )
    assert not reaches(overlay)
    alice.ask("path", "close", other)
    assert ipv6_reaches(overlay)
    assert not reaches(overlay)
    assert json.loads(alice.host.namespace.run(release(alice)).stdout)["released"] >= 1
    assert reaches(overlay)
    assert "nothing is blocked" in alice.cli(
        "stop", "--release", "--config", str(alice.configuration)
    )
    rules = alice.host.namespace.run(["sh", "-c", "ip rule; ip -6 rule; nft list tables"]).stdout
    assert "guard" not in rules
    assert "109:" not in rules


def client(node):
    return ControlClient(node.directory / "run" / "control.sock")


def listens(node):
    """Whether a process answers; a killed one leaves its socket."""
    try:
        with client(node):
            return True
    except NoNodeAnswers:
        return False


def network(address):
    return ipaddress.ip_network(address)


# -- ends --------------------------------------------------------------------------------


def stopped(node):
    said = node.ask("stop")
    assert (said["stopped"], said["blocked"]) == (True, 1)
    wait_until("the end", lambda: not node.running, timeout_s=20)


def terminated(node):
    end_by_signal(node, signal.SIGTERM)


def interrupted(node):
    end_by_signal(node, signal.SIGINT)


def end_by_signal(node, number):
    node.send_signal(number)
    wait_until("the end", lambda: not node.running, timeout_s=20)
    said = node.announcements.read_text().splitlines()[-1]
    assert said.startswith("Stopped. 1 destination stays blocked until the node runs again")
    assert "kill_switch.kept destinations=1" in node.log.read_text().splitlines()[-1]


def killed(node):
    node.kill()


def start(node, bootstrap=None):
    node.start(bootstrap)
    wait_until("the start", lambda: node.answers and listens(node), timeout_s=60)


def restart(node, states=frozenset({"open"})):
    """Start without a bootstrap node, and wait until the restored paths are open."""
    start(node)

    def restored():
        with client(node) as asked:
            return {p.state for p in asked.paths() if p.destination != PERMANENT} == states

    wait_until("the paths' return", restored, timeout_s=60)


PERMANENT = "198.51.100.77/32"
"""No exit of the laboratory leads there; its path waits."""


def rebooted(overlay, node):
    """Return the node in a fresh namespace, which knows nothing, with the same disk."""
    again = copy.copy(node)
    again.host = overlay.underlay.add_host("rebooted")
    again.address = str(again.host.ipv4.ip)
    again.endpoint = f"{again.address}:{PORT}"
    text = node.configuration.read_text().replace(node.endpoint, again.endpoint)
    again.configuration.write_text(text)
    return again


def run_program(node, source, destination):
    return node.host.namespace.run(
        [sys.executable, "-c", source, str(node.configuration), destination],
        check=False,
        timeout_s=60,
    )


def release(node):
    command = [sys.executable, "-m", "overlay", "stop", "--release", "--json"]
    return [*command, "--config", str(node.configuration)]


# -- traffic -----------------------------------------------------------------------------


def try_in_the_clear(overlay):
    """Send to the destination as programs do that know of nothing, by each way there is."""
    alice, web = overlay.alice, overlay.web.address
    assert overlay.fetch("small", check=False, timeout_s=30) is None
    for option in ([], ["-I", alice.host.interface], ["-I", alice.address]):
        command = ["ping", "-c", "1", "-W", "1", *option, web]
        assert alice.host.namespace.run(command, check=False).returncode != 0
    assert not ipv6_reaches(overlay)


def reaches(overlay):
    """Whether the server answers in the clear."""
    return pings(overlay, overlay.web.address)


def ipv6_reaches(overlay):
    return pings(overlay, str(overlay.bob.ipv6.ip))


def pings(overlay, target):
    command = ["ping", "-c", "1", "-W", "2", target]
    return overlay.alice.host.namespace.run(command, check=False).returncode == 0


def outside_the_circuit(packets, overlay):
    """Return packets that are not from node to node; the capture must not be empty.

    Between nodes there is UDP, and ICMP "port unreachable" while one of them is dead. ARP,
    neighbour discovery and group membership stay on the link.
    """
    nodes = {node.address for node in overlay.nodes.values()}
    seen = [p for p in packets if p.protocol != ARP]
    assert len(seen) > 100
    return [
        p
        for p in seen
        if (p.protocol not in (UDP, ICMP) or not {p.source, p.destination} <= nodes)
        and not (p.version == 6 and ipaddress.ip_address(p.destination).is_private)
        and not ipaddress.ip_address(p.destination).is_multicast
    ]


def bound_udp_port():
    taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    taken.bind(("", PORT))
    return taken
