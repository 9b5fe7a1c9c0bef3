"""Traffic flow confidentiality on the wire: with ``pad`` all that an observer counts is equal."""

import time

import pytest
from lab_overlay import LabOverlay

from lab.reading import UDP

pytestmark = pytest.mark.timed

DUMMIES_PER_S = 20.0
SETTINGS = f"""
[tfc]
strategy = "pad"

[tfc.pad]
dummy_rate_pps = {DUMMIES_PER_S}
"""


def test_padded_links_show_packets_of_one_size_and_dummies_when_idle(laboratory, tmp_path):
    with LabOverlay(tmp_path, mixes=1, wire_packets=True, settings=SETTINGS) as overlay:
        overlay.web.publish("file", bytes(200_000))
        overlay.web.publish("tiny", b"tiny")
        alice = overlay.alice
        with alice.host.capture(tmp_path / "busy.pcap") as busy:
            alice.ask("path", "open", overlay.web.address, "--hops", "2")
            assert overlay.fetch() == bytes(200_000)
            assert overlay.fetch("tiny") == b"tiny"
        begun = time.monotonic()
        with alice.host.capture(tmp_path / "idle.pcap") as idle:
            for _ in range(3):
                alice.status()
            alice.host.namespace.run(["ping", "-c", "10", "-i", "0.2", "127.0.0.1"])
        most = 2 * DUMMIES_PER_S * (time.monotonic() - begun) + 100  # a busy machine takes longer
    sizes = {p.length for p in esp_packets(busy)}
    assert len(sizes) == 1, sizes
    assert max(sizes) <= 1500
    quiet = esp_packets(idle)
    assert {p.length for p in quiet} == sizes
    sent = sum(p.source == alice.address for p in quiet)
    received = len(quiet) - sent
    assert 10 < sent < most
    assert 10 < received < most


def esp_packets(capture):
    found = [
        p for p in capture.packets() if p.protocol == UDP and not p.payload.startswith(bytes(4))
    ]
    assert found
    return found
