"""Links find out how large their datagrams may be."""

import pytest
from link_lab import NOW, Host, Lab

from overlay.link.size_search import BASE_BYTES, GRAIN_BYTES


def linked(*, both=True, line_bytes=1472):
    alice, bob = Host(1), Host(2)
    alice.probes_sizes, bob.probes_sizes = True, both
    for host in (alice, bob):
        host.restart(host.endpoint.port)
    lab = Lab(alice, bob)
    lab.line_bytes = line_bytes
    alice.links.connect(bob.peer, NOW)
    return lab, alice, bob


def test_on_a_usual_line_both_sides_know_it_at_once():
    lab, alice, bob = linked()
    lab.run(NOW, NOW + 0.1)
    assert (alice.datagram_bytes, bob.datagram_bytes) == (1472, 1472)


@pytest.mark.parametrize("line_bytes", [552, 1000, 1252, 1420])
def test_on_a_narrow_line_both_sides_find_its_size(line_bytes):
    lab, alice, bob = linked(line_bytes=line_bytes)
    lab.run(NOW, NOW + 60)
    for host, peer in ((alice, bob), (bob, alice)):
        assert line_bytes - GRAIN_BYTES < host.datagram_bytes <= line_bytes
        assert host.links.datagram_bytes(peer.peer.overlay_address) == host.datagram_bytes


def test_a_line_that_becomes_narrow_is_noticed_and_rekeying_changes_nothing():
    lab, alice, bob = linked()
    now = lab.run(NOW, NOW + 10)
    lab.line_bytes = 1252
    now = lab.run(now, now + 25)
    assert max(alice.datagram_bytes, bob.datagram_bytes) <= 1252
    alice.links.rekey(bob.peer.overlay_address, now)
    lab.run(now, now + 30)
    assert 1252 - GRAIN_BYTES < alice.datagram_bytes <= 1252


def test_a_peer_that_does_not_answer_is_not_limited():
    lab, alice, bob = linked(both=False)
    lab.run(NOW, NOW + 100)
    assert (alice.datagram_bytes, bob.datagram_bytes) == (0, 0)
    assert alice.links.datagram_bytes(bob.peer.overlay_address) is None


def test_a_probe_that_was_cut_or_replayed_proves_nothing():
    lab, alice, bob = linked(line_bytes=BASE_BYTES)
    lab.run(NOW, NOW + 0.5)
    probes = []
    now = NOW + 0.5
    while not probes:
        now = alice.links.next_deadline()
        alice.links.handle_deadline(now)
        probes = alice.links.whole_datagrams_to_send()
    bob.links.receive([(probes[0][0][:1000], alice.endpoint)], now)
    assert bob.links.datagrams_to_send(now) == []
    bob.links.receive([(probes[0][0], alice.endpoint)] * 2, now)
    answers = bob.links.datagrams_to_send(now)
    assert [len(data) for data, _ in answers] == [48, 48]
    alice.links.receive([(data, bob.endpoint) for data, _ in answers], now)
    lab.run(now, now + 60)
    assert alice.datagram_bytes <= 1472
