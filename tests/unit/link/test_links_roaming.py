"""A link follows a peer with a new address after a round trip, and no other sender."""

from __future__ import annotations

import pytest
from link_lab import NOW, Host, Lab, mirrored
from test_links_injected import EVERY_KIND, EVIL, Observed, never_at_evil, no_end

from overlay.addresses import Endpoint
from overlay.link.events import LinkEstablished
from overlay.link.settings import LinkSettings


def linked(*, initiator: bool) -> tuple[Host, Host, Lab]:
    """A link of a host behind NAT, which began it or did not; both have found themselves."""
    alice, bob = Host(1), Host(2)
    alice.behind_nat = bob.behind_nat = True
    lab = Lab(alice, bob)
    one, other = (alice, bob) if initiator else (bob, alice)
    one.links.connect(other.peer, NOW)
    lab.settle(NOW)
    return alice, bob, lab


def sends_esp(sender: Host, receiver: Host, now: float, source: Endpoint | None = None) -> None:
    """What the engine tells when an authentic packet comes from elsewhere."""
    spi = max(receiver.usable)
    receiver.links.seen_at(spi, source or sender.endpoint, now)


def place(host: Host) -> Endpoint:
    return [e.endpoint for e in host.log if isinstance(e, LinkEstablished) and e.usable][-1]


@pytest.mark.parametrize("initiator", [True, False])
def test_an_esp_packet_from_a_new_endpoint_moves_the_link_after_a_round_trip(initiator):
    alice, bob, lab = linked(initiator=initiator)
    before = set(bob.usable)
    lab.move(alice, Endpoint("9.9.9.9", 1234))
    sends_esp(alice, bob, NOW + 5)
    lab.run(NOW + 5, NOW + 5.15)
    assert place(bob) == alice.endpoint
    assert set(bob.usable) == before, "with the same SAs"
    lab.run(NOW + 5.15, NOW + 60)
    assert no_end(alice, bob)
    assert mirrored(alice, bob)


def test_a_link_moves_twice_and_back():
    alice, bob, lab = linked(initiator=True)
    home = alice.endpoint
    for step, endpoint in enumerate(
        [Endpoint("9.9.9.9", 1234), Endpoint("9.9.9.9", 99), Endpoint("7.7.7.7", 9), home]
    ):
        lab.move(alice, endpoint)
        sends_esp(alice, bob, NOW + 4 * step)
        lab.run(NOW + 4 * step, NOW + 4 * step + 0.2)
        assert place(bob) == endpoint
        lab.run(NOW + 4 * step + 0.2, NOW + 4 * step + 4)
    lab.run(NOW + 16, NOW + 1000)
    assert no_end(alice, bob)
    assert mirrored(alice, bob)


def test_both_sides_may_move_at_once_if_one_of_them_is_heard():
    """Of two that moved at once neither is found, unless one had sent before the other moved."""
    alice, bob, lab = linked(initiator=True)
    lab.move(alice, Endpoint("9.9.9.9", 1234))
    sends_esp(alice, bob, NOW + 5)
    lab.settle(NOW + 5)
    lab.move(bob, Endpoint("7.7.7.7", 4321))
    lab.run(NOW + 5, NOW + 5.5)
    assert place(bob) == alice.endpoint
    sends_esp(bob, alice, NOW + 5.5)
    lab.run(NOW + 5.5, NOW + 6)
    assert place(alice) == bob.endpoint
    lab.run(NOW + 6, NOW + 1000)
    assert no_end(alice, bob)
    assert mirrored(alice, bob)


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_a_link_that_moves_amid_a_rekeying_is_rekeyed_at_its_new_endpoint(who):
    alice, bob, lab = linked(initiator=True)
    before = set(alice.usable)
    lab.move(alice, Endpoint("9.9.9.9", 1234))
    one, other = (alice, bob) if who == "alice" else (bob, alice)
    one.links.rekey(other.identity.overlay_address, NOW + 5)
    sends_esp(alice, bob, NOW + 5)
    lab.run(NOW + 5, NOW + 10)
    assert no_end(alice, bob)
    assert mirrored(alice, bob)
    assert set(alice.usable) != before
    assert place(bob) == alice.endpoint


@pytest.mark.parametrize("order", ["before", "after", "instead"])
@pytest.mark.parametrize("forwards", [False, True])
def test_copies_of_esp_move_no_link(order, forwards):
    alice, bob, _ = linked(initiator=True)
    lab = Observed(alice, bob, EVERY_KIND, order, forwards=forwards)
    for step in range(50):
        sends_esp(alice, bob, NOW + 5 + step / 10, EVIL)
        lab.run(NOW + 5 + step / 10, NOW + 5.09 + step / 10)
    lab.run(NOW + 10, NOW + 30)
    assert never_at_evil(alice, bob)
    assert no_end(alice, bob)


def test_a_packet_from_an_address_that_is_not_allowed_is_no_reason_to_ask():
    alice, bob, lab = linked(initiator=True)
    sends_esp(alice, bob, NOW + 5, Endpoint("192.168.1.1", 4500))
    assert bob.links.datagrams_to_send(NOW + 5) == []
    assert lab.settle(NOW + 5) is None


def test_a_move_to_a_prefix_without_room_ends_no_link():
    alice, bob, carol = Host(1), Host(2, LinkSettings(max_accepted_links_per_prefix=1)), Host(3)
    for host in (alice, bob, carol):
        host.behind_nat = True
    lab = Lab(alice, bob, carol)
    alice.links.connect(bob.peer, NOW)
    carol.links.connect(bob.peer, NOW)
    lab.settle(NOW)
    lab.move(alice, Endpoint("8.8.3.7", 77))
    [spi] = [each.inbound_spi for each in bob.pairs.values() if each.outbound_spi in alice.pairs]
    bob.links.seen_at(spi, alice.endpoint, NOW + 5)
    lab.run(NOW + 5, NOW + 6)
    assert place(bob) == alice.endpoint
    assert no_end(alice, bob, carol)


@pytest.mark.parametrize("initiator", [True, False])
def test_recorded_notices_hold_no_link_where_its_peer_is_no_more(initiator):
    """An observer repeats all that it has, under the peer's former address."""
    alice, bob, lab = linked(initiator=initiator)
    alice.links.rekey(bob.identity.overlay_address, NOW + 2)
    lab.run(NOW + 2, NOW + 4)
    former = alice.endpoint
    recorded = [data for data, source, _ in lab.sent if source == former]
    lab.move(alice, Endpoint("9.9.9.9", 1234))
    sends_esp(alice, bob, NOW + 5)
    now = NOW + 5
    while now < NOW + 5.5:
        bob.links.receive([(data, former) for data in recorded], now)
        lab.run(now, now + 0.01)
        now += 0.01
    assert place(bob) == alice.endpoint
    lab.run(now, NOW + 60)
    assert place(bob) == alice.endpoint
    assert no_end(alice, bob)


def test_recorded_notices_from_elsewhere_move_no_link():
    alice, bob, lab = linked(initiator=True)
    alice.links.rekey(bob.identity.overlay_address, NOW + 2)
    lab.run(NOW + 2, NOW + 4)
    recorded = [data for data, _, _ in lab.sent]
    for step in range(100):
        for host in (alice, bob):
            host.links.receive([(data, EVIL) for data in recorded], NOW + 5 + step / 10)
        lab.run(NOW + 5 + step / 10, NOW + 5.05 + step / 10)
    assert never_at_evil(alice, bob)
    assert no_end(alice, bob)


def publishing(*hosts: Host, fallback: tuple[Endpoint, ...] = ()) -> None:
    """Let each host know what the others publish: where they are, behind a fallback."""
    known = {host.identity.overlay_address: host for host in hosts}
    for host in hosts:
        host.links.endpoints.published = lambda peer: (*fallback, known[peer].endpoint)


@pytest.mark.parametrize("first", ["alice", "bob"])
def test_a_link_whose_ends_move_at_once_goes_on_at_what_they_publish(first):
    alice, bob, lab = linked(initiator=True)
    publishing(alice, bob)
    lab.move(alice, Endpoint("9.9.9.9", 1234))
    lab.move(bob, Endpoint("7.7.7.7", 4321))
    one, other = (alice, bob) if first == "alice" else (bob, alice)
    one.links.rekey(other.identity.overlay_address, NOW + 5)
    lab.run(NOW + 5, NOW + 6)
    assert (place(alice), place(bob)) == (bob.endpoint, alice.endpoint)
    lab.run(NOW + 6, NOW + 1000)
    assert no_end(alice, bob)
    assert mirrored(alice, bob)


def test_a_rekeying_under_way_finds_an_endpoint_that_is_published_later():
    alice, bob, lab = linked(initiator=True)
    lab.move(alice, Endpoint("9.9.9.9", 1234))
    lab.move(bob, Endpoint("7.7.7.7", 4321))
    alice.links.rekey(bob.identity.overlay_address, NOW + 5)
    lab.run(NOW + 5, NOW + 5.1)
    publishing(alice, bob)
    lab.run(NOW + 5.1, NOW + 7)
    assert (place(alice), place(bob)) == (bob.endpoint, alice.endpoint)
    assert no_end(alice, bob)


def test_a_rekeying_asks_no_published_endpoint_if_the_one_in_use_answers():
    alice, bob, lab = linked(initiator=True)
    publishing(alice, bob, fallback=(Endpoint("6.6.6.6", 1),))
    lab.sent.clear()
    alice.links.rekey(bob.identity.overlay_address, NOW + 5)
    lab.run(NOW + 5, NOW + 8)
    assert {target for *_, target in lab.sent} == {alice.endpoint, bob.endpoint}


def test_a_rekeying_asks_no_endpoint_of_another_ip_version_or_that_is_not_allowed():
    alice, bob, lab = linked(initiator=True)
    fallback = (Endpoint("2a00:db8::1", 4500), Endpoint("192.168.1.1", 4500))
    publishing(alice, bob, fallback=fallback)
    lab.move(bob, Endpoint("7.7.7.7", 4321))
    lab.sent.clear()
    alice.links.rekey(bob.identity.overlay_address, NOW + 5)
    lab.run(NOW + 5, NOW + 6)
    assert place(alice) == bob.endpoint
    assert {target for *_, target in lab.sent}.isdisjoint(fallback)
