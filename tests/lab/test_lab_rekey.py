"""The userspace engine changes keys of links and circuits under a UDP stream without a loss."""

import contextlib
import socket

import pytest
from lab_overlay import LabOverlay
from nat import map_to, translated
from observer import Observer
from streams import echoing, echoing_tcp, longest_silence, numbered_echoes, roomy

from lab.watched import read_key_file

pytestmark = pytest.mark.timed

SETTINGS = """
[apm]
keepalive_interval_s = 3.0
idle_expiry_s = 10.0
rekey_after_packets = 200
rekey_spread_s = 0.3

[link]
rekey_after_packets = 150
rekey_pause_s = 0.5
"""
HOPS = 2
DATAGRAMS, RATE_PPS, SIZE = 2000, 250.0, 200
CHANGES = 3
"""Of 200 packets each, in 2000; a machine that hangs for seconds makes fewer of them."""


OBSERVED_DATAGRAMS, OBSERVED_ROUNDS = 600, 5


@pytest.fixture(scope="module")
def overlay(laboratory, tmp_path_factory):
    directory = tmp_path_factory.mktemp("rekey")
    with LabOverlay(directory, mixes=1, watched=True, settings=SETTINGS) as made:
        made.mallory = made.underlay.add_host("mallory")
        yield made


@contextlib.contextmanager
def opened_path(overlay):
    """A path to bob while inside, whatever happens there."""
    opened = overlay.alice.ask("path", "open", overlay.web.address, "--hops", str(HOPS))
    try:
        yield opened
    finally:
        overlay.alice.ask("path", "close", "--all")


def stream(overlay, count):
    """Send numbered datagrams to bob and back through the path; return what came back."""
    alice, bob = overlay.alice, overlay.web.host
    with (
        bob.namespace.call(udp_socket) as server,
        alice.host.namespace.call(udp_socket) as client,
    ):
        server.bind((overlay.web.address, 0))
        client.connect(server.getsockname())
        with echoing(server):
            return numbered_echoes(client, count=count, rate_pps=RATE_PPS, size=SIZE)


def test_an_observer_that_initiates_in_a_sources_place_gets_no_link(overlay):
    """It sends each initiation of alice from its own address, and alice the answers."""
    alice = overlay.alice
    with Observer(alice.host, overlay.mallory) as observer, opened_path(overlay) as opened:
        for _ in range(OBSERVED_ROUNDS):
            assert stream(overlay, OBSERVED_DATAGRAMS) == list(range(OBSERVED_DATAGRAMS))
            if observer.copied >= 2:  # either end of a link may be the first to replace keys
                break
        [path] = alice.ask("path", "list")
    assert observer.copied >= 2, "for the link, and for new keys"
    assert observer.passed_on >= observer.copied - 1
    assert observer.esp == 0
    assert path["inner_addresses"] == opened["inner_addresses"], "it was not rebuilt"


def test_a_udp_stream_loses_nothing_and_keeps_its_order_while_keys_change(overlay):
    alice = overlay.alice
    with opened_path(overlay) as opened:
        assert stream(overlay, DATAGRAMS) == list(range(DATAGRAMS))
        [path] = alice.ask("path", "list")
    assert path["inner_addresses"] == opened["inner_addresses"], "it was not rebuilt"
    for name, node in overlay.nodes.items():
        drops = node.status()["drops"]
        assert not [each for each in drops if each.startswith("Xfrm")], (name, drops)
    installed = list(read_key_file(overlay.directory / "alice.keys"))
    assert sum(sa.link and sa.inbound for sa in installed) > CHANGES
    assert sum(not sa.link and sa.inbound for sa in installed) > HOPS * CHANGES


MAPPINGS = [("10.200.0.1", 40_001), ("10.200.0.2", 40_002), ("10.200.0.2", 40_003)]
MAPPED_S = 4.0
"""Longer than the time for which a link that has moved may go back."""

LONGEST_SILENCE_S = 1.5
"""A round trip of proof takes 0.2 s, the first retransmissions of TCP another 0.2 and 0.4 s."""


def test_a_tcp_conversation_survives_changes_of_the_nat_mapping(overlay):
    """Situation S12: the outside address of alice's router changes, then only the port."""
    alice, bob = overlay.alice, overlay.web.host
    with (
        bob.namespace.call(lambda: socket.create_server((overlay.web.address, 0))) as server,
        translated(alice.host),
        opened_path(overlay) as opened,
        echoing_tcp(server),
        alice.host.namespace.call(
            lambda: socket.create_connection(server.getsockname(), timeout=30)
        ) as client,
    ):
        silences = []
        for outside, port in MAPPINGS:
            map_to(alice.host, outside, port)
            silences.append(longest_silence(client, MAPPED_S))
        [path] = alice.ask("path", "list")
    assert path["inner_addresses"] == opened["inner_addresses"], "it was not rebuilt"
    assert max(silences) < LONGEST_SILENCE_S, silences


def udp_socket():
    return roomy(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
