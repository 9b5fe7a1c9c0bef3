"""A relay receives garbage from forged addresses, and its circuits go on."""

import subprocess
import sys
import time

import pytest

from lab.flood import pack_payloads
from lab.garbage import garbage_kinds
from lab.nodes import PORT, NodeProcess, wait_until
from lab.reading import UDP
from lab.underlay import Underlay
from lab.webserver import WebServer
from overlay.addresses import Endpoint
from overlay.keyfile import read_identity

pytestmark = [pytest.mark.lab, pytest.mark.timed]

RATE = 20_000
CONTENT = bytes(range(256)) * 4000


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A relay, an exit, and alice with a path of two hops to a web server, over IPv6."""
    directory = tmp_path_factory.mktemp("garbage")
    with Underlay() as underlay:
        relay, exit_node, alice = nodes = [
            NodeProcess(underlay.add_host(name), directory / name, exits=name == "exit", ipv6=True)
            for name in ("relay", "exit", "alice")
        ]
        attacker = underlay.add_host("attacker")
        web = WebServer(underlay.add_server("bob"), directory / "bob")
        try:
            with web:
                web.publish("file", CONTENT)
                relay.start()
                wait_until("the relay's start", lambda: relay.answers, timeout_s=60)
                exit_node.start(relay)
                alice.start(relay)
                known = lambda: (alice.status() or {}).get("mix_nodes", 0) >= 2  # noqa: E731
                wait_until("the topology table", known, timeout_s=120)
                via = f"{relay.overlay_address},{exit_node.overlay_address}"
                destination = str(web.address)
                alice.ask("path", "open", destination, "--hops", "2", "--via", via)
                yield relay, alice, attacker, web
        finally:
            for node in nodes:
                node.stop()


def flood(relay, attacker, payloads, seconds, *source):
    command = [sys.executable, "-m", "lab.flood", relay.address, str(PORT), str(RATE)]
    program = attacker.namespace.popen(
        [*command, str(seconds), *source], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    program.stdin.write(pack_payloads(payloads))
    program.stdin.close()
    return program


def fetch(alice, web):
    target = alice.directory / "fetched"
    command = ["curl", "-sS", "--fail", "--max-time", "20", "-o", str(target)]
    alice.host.namespace.run([*command, f"http://{web.address}/file"], timeout_s=30)
    return target.read_bytes()


def link_spi(relay, alice, web):
    """Watch the relay's cable for the SPI of the link from alice."""
    with relay.host.capture(alice.directory / "cable.pcap") as capture:
        fetch(alice, web)
    return next(
        packet.payload[:4]
        for packet in capture.packets()
        if (packet.source, packet.protocol) == (alice.address, UDP)
        and not packet.payload.startswith(bytes(4))
    )


def dropped_by_kernel(relay):
    return relay.status()["counters"].get("udp_dropped_by_kernel", 0)


def test_a_path_carries_and_is_not_rebuilt_under_floods_of_every_kind(scene):
    relay, alice, attacker, web = scene
    (before,) = alice.ask("path", "list")
    identity = read_identity(relay.directory / "identity.key")
    spi = link_spi(relay, alice, web)
    kinds = garbage_kinds(identity, "laboratory", Endpoint(relay.address, PORT), spi)
    peer = (alice.address, str(PORT))
    for name, *source in [
        ("ESP, unknown SPI",),
        ("link, valid mac1",),
        ("DHT, no cookie",),
        ("ESP, known SPI, wrong ICV",),
        ("ESP, known SPI, wrong ICV", *peer),
    ]:
        dropped = dropped_by_kernel(relay)
        program = flood(relay, attacker, kinds[name], 1.5, *source)
        time.sleep(0.5)  # the flood has begun
        # Strangers have limits only while circuits carry packets.
        while program.poll() is None:
            assert fetch(alice, web) == CONTENT, name
        program.wait(20)
        now_dropped = dropped_by_kernel(relay)
        # Of 30,000 datagrams: what the node reads beside them is the file.
        assert now_dropped - dropped > 12_000, name
    (after,) = alice.ask("path", "list")
    assert after["state"] == "open"
    assert after["inner_addresses"] == before["inner_addresses"]  # the exit lends others anew
