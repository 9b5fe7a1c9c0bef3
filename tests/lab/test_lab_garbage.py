"""A relay receives garbage from forged addresses, and its circuits go on."""

import json
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from types import SimpleNamespace

import pytest

from lab.flood import pack_payloads
from lab.garbage import garbage_kinds
from lab.namespaces import LabError
from lab.nodes import PORT, NodeProcess, wait_until
from lab.reading import UDP
from lab.underlay import Underlay
from lab.webserver import WebServer
from overlay.addresses import Endpoint
from overlay.keyfile import read_identity

pytestmark = [pytest.mark.lab, pytest.mark.timed]

RATE = 20_000
FIRST_CONTACT_S = 60
CONTENT = bytes(range(256)) * 4000


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A relay, an exit, and alice with a path of two hops to a web server, over IPv6.

    Carol is a new node that has not started.
    """
    directory = tmp_path_factory.mktemp("garbage")
    with Underlay() as underlay:
        relay, exit_node, alice, carol = nodes = [
            NodeProcess(underlay.add_host(name), directory / name, exits=name == "exit", ipv6=True)
            for name in ("relay", "exit", "alice", "carol")
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
                wait_until("the topology table", lambda: knows_all(alice), timeout_s=120)
                open_path(alice, relay, exit_node, web)
                yield SimpleNamespace(
                    relay=relay,
                    exit=exit_node,
                    alice=alice,
                    carol=carol,
                    attacker=attacker,
                    web=web,
                )
        finally:
            for node in nodes:
                node.stop()


def knows_all(node):
    return (node.status() or {}).get("mix_nodes", 0) >= 2


def open_path(node, relay, exit_node, web):
    via = f"{relay.overlay_address},{exit_node.overlay_address}"
    node.ask("path", "open", str(web.address), "--hops", "2", "--via", via)


def opens_path(node, relay, exit_node, web):
    with suppress(LabError):
        open_path(node, relay, exit_node, web)
    return has_open_path(node)


def has_open_path(node):
    # After a crash its old control socket is still there.
    answers = node.status() is not None
    return answers and [path["state"] for path in node.ask("path", "list")] == ["open"]


def flood(relay, attacker, payloads, seconds, *source):
    command = [sys.executable, "-m", "lab.flood", relay.address, str(PORT), str(RATE)]
    program = attacker.namespace.popen(
        [*command, str(seconds), *source], stdin=subprocess.PIPE, stdout=subprocess.PIPE
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
    relay, alice, attacker, web = scene.relay, scene.alice, scene.attacker, scene.web
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
        output = program.stdout.read()
        program.wait(20)
        sent = json.loads(output.splitlines()[-1])["sent"]  # 30,000, or less on a busy machine
        assert dropped_by_kernel(relay) - dropped > 0.4 * sent, name
    (after,) = alice.ask("path", "list")
    assert after["state"] == "open"
    assert after["inner_addresses"] == before["inner_addresses"]  # the exit lends others anew


@contextmanager
def carrying(alice, web):
    """Let alice's circuit carry something all the time, so that strangers have limits."""
    url = f"http://{web.address}/file"
    command = f"while :; do curl -s --max-time 20 -o /dev/null '{url}'; done"
    program = alice.host.namespace.popen(["sh", "-c", command])
    try:
        yield
    finally:
        program.kill()
        program.wait()


def test_new_nodes_and_lost_links_succeed_beside_a_flood_without_cookies(scene):
    relay, exit_node, alice, carol = scene.relay, scene.exit, scene.alice, scene.carol
    identity = read_identity(relay.directory / "identity.key")
    kinds = garbage_kinds(identity, "laboratory", Endpoint(relay.address, PORT), bytes(4))
    payloads = [*kinds["DHT, no cookie"], *kinds["link, valid mac1"]]
    program = flood(relay, scene.attacker, payloads, 200)
    try:
        with carrying(alice, scene.web):
            time.sleep(1.0)
            began = time.monotonic()
            carol.start(relay)
            wait_until(
                "carol's topology table", lambda: knows_all(carol), timeout_s=FIRST_CONTACT_S
            )
            # One attempt gives up after some seconds, because the flood costs some of its messages.
            wait_until(
                "carol's path",
                lambda: opens_path(carol, relay, exit_node, scene.web),
                timeout_s=FIRST_CONTACT_S - (time.monotonic() - began),
            )
        with carrying(carol, scene.web):
            # A crash leaves its links at the relay, which knows no cookie of it.
            alice.kill()
            began = time.monotonic()
            alice.start(relay)
            wait_until("alice's path", lambda: has_open_path(alice), timeout_s=FIRST_CONTACT_S)
            assert fetch(alice, scene.web) == CONTENT
        assert program.poll() is None
    finally:
        program.kill()
        program.wait(20)
