"""No packet to an anonymised destination leaves outside its circuit, in any state of the node."""

import secrets

import pytest
from lab_overlay import LabOverlay
from probes import flush

from lab.nodes import wait_until
from lab.reading import ARP, ICMP, UDP

CONTENT = secrets.token_bytes(30_000_000)


@pytest.fixture
def overlay(laboratory, tmp_path):
    settings = "[apm]\nkeepalive_interval_s = 2.0\n"  # to notice a dead relay the sooner
    with LabOverlay(tmp_path, mixes=4, settings=settings) as made:
        made.web.publish("file", CONTENT)
        made.web.publish("small", b"small")
        yield made


def outside_the_circuit(packets, overlay):
    """Return packets that are not from node to node; the capture must not be empty.

    Between nodes there is UDP, and ICMP "port unreachable" while one of them is dead.
    """
    nodes = {node.address for node in overlay.nodes.values()}
    seen = [p for p in packets if p.protocol != ARP]
    assert len(seen) > 100
    return [
        p for p in seen if p.protocol not in (UDP, ICMP) or not {p.source, p.destination} <= nodes
    ]


def test_nothing_leaks_while_node_and_relay_are_killed_and_the_node_restarts(overlay, tmp_path):
    alice, web = overlay.alice, overlay.web.address
    with alice.host.capture(tmp_path / "alice.pcap") as capture:
        path = alice.ask("path", "open", web, "--hops", "3")
        download = alice.host.namespace.popen(
            ["curl", "-s", "-o", str(tmp_path / "cut"), f"http://{web}/file"]
        )
        downloading = lambda: (alice.status() or {})["counters"]["packets_to_host"] > 2_000  # noqa: E731 - read at once
        wait_until("the download's start", downloading, timeout_s=120)
        alice.kill()
        flush(alice.host.namespace, "nft", "iptables")
        assert overlay.fetch("small", check=False, timeout_s=60) is None
        ping(alice, web)
        alice.start()  # without any bootstrap peer: from what it remembers
        wait_until("alice's return", lambda: alice.answers and alice.status(), timeout_s=120)
        rebuilt = lambda: [p["state"] for p in alice.ask("path", "list")] == ["open"]  # noqa: E731 - read at once
        wait_until("the path's return", rebuilt, timeout_s=120)
        assert overlay.fetch("small") == b"small"
        path = alice.ask("path", "list")[0]
        overlay.nodes[overlay.named(path["hops"][1]["overlay_address"])].kill()
        ping(alice, web)
        wait_until(
            "the path around the dead relay",
            lambda: leads_elsewhere(path, alice.ask("path", "list")[0]),
            timeout_s=180,
        )
        assert overlay.fetch("small") == b"small"
        download.kill()
        download.wait()
    assert outside_the_circuit(capture.packets(), overlay) == []
    alice.ask("path", "close", "--all")
    with alice.host.capture(tmp_path / "after.pcap") as after:
        assert overlay.fetch("small") == b"small"
    assert any(p.destination == web for p in after.packets()), "a closed path protects no more"


def leads_elsewhere(before, now):
    """Tell by one answer: between two of them the path may break."""
    return now["state"] == "open" and now["hops"] != before["hops"]


def ping(node, destination):
    """Try to reach the destination directly, also from the host's own address and device."""
    for option in ([], ["-I", node.host.interface], ["-I", node.address]):
        node.host.namespace.run(
            ["ping", "-c", "2", "-i", "0.2", "-W", "1", *option, destination], check=False
        )
