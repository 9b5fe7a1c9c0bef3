"""What the reports of a running node look like as text."""

from dataclasses import replace

from overlay.cli.reports import path_text, paths_text, peers_text
from overlay.control.service import PathReport, PeerReport

PATH = PathReport(1, "203.0.113.1/32", "open", (), (), None, 1.0, "uniform", 1300)
PEER = PeerReport("ab" * 20, "fd6d:6978::1", (), (), (), 0, 60.0, linked=True)


def test_a_path_tells_what_its_first_link_carries():
    measured = replace(PATH, link_bytes=1236, whole_bytes=978)
    assert "mtu:            1300 bytes\n" in path_text(PATH)
    said = (
        "1300 bytes; the first link carries 1236, so packets above 978 bytes are sent in fragments"
    )
    assert said in path_text(measured)
    assert "no packet is fragmented" in path_text(replace(measured, whole_bytes=1300))
    assert "1236 bytes" in paths_text([measured])


def test_a_peer_tells_what_its_link_carries():
    assert "up, 1472 bytes" in peers_text([replace(PEER, link_bytes=1472)])
    assert "  up  " in peers_text([PEER])
