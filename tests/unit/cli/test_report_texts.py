"""What the reports of a running node look like as text."""

from dataclasses import replace

from node_reports import STATUS

from overlay.cli.reports import path_text, paths_text, peers_text, status_text
from overlay.control.service import PathReport, PeerReport
from overlay.plurals import counted

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


def test_numbers_and_nouns_agree():
    assert [counted(n, "exit") for n in (0, 1, 2)] == ["0 exits", "1 exit", "2 exits"]
    assert [counted(n, "prefix", "prefixes") for n in (1, 2)] == ["1 prefix", "2 prefixes"]
    assert "suspected in 1 region of the DHT" in status_text(replace(STATUS, suspect_regions=1))
    assert "suspected in 2 regions of the DHT" in status_text(replace(STATUS, suspect_regions=2))
    repaired = replace(STATUS, counters={"repaired_routes": 1})
    assert "in force; repaired once" in status_text(repaired)
