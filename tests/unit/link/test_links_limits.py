"""Limits of links and of half-open links, and cookies under load."""

from __future__ import annotations

import pytest
from connected_links import bob_rng, connected, flips, is_not_a, variants
from link_lab import NOW, Host, Lab, mirrored

from overlay.addresses import Endpoint
from overlay.errors import LimitReached
from overlay.link.events import (
    LinkFailed,
    LinkFailure,
    LinkSaRemoved,
)
from overlay.link.handshake import MessageType
from overlay.link.links import LinkDrop, Links
from overlay.link.settings import LinkSettings


def test_links_beyond_the_limit_fail_with_limit():
    alice = Host(1, LinkSettings(max_links=2, max_accepted_links=1))
    others = [Host(number) for number in range(2, 6)]
    lab = Lab(alice, *others)
    others[0].links.connect(alice.peer, NOW)
    lab.settle(NOW)
    others[1].links.connect(alice.peer, NOW)  # one peer too many
    lab.settle(NOW)
    assert len(alice.links) == 1
    assert alice.links.drops()[LinkDrop.LIMIT] == 1
    alice.links.connect(others[2].peer, NOW)  # room is kept for our own choice
    alice.links.connect(others[3].peer, NOW)
    assert alice.take_events() == [
        LinkFailed(others[3].identity.overlay_address, LinkFailure.LIMIT)
    ]
    assert len(alice.links) == 2


def test_nodes_of_one_prefix_take_no_more_than_their_share_of_links():
    alice, bob = Host(1, LinkSettings(max_accepted_links_per_prefix=2)), Host(2)
    mallories = [Host(number) for number in range(3, 8)]
    for number, mallory in enumerate(mallories, start=1):
        mallory.endpoint = Endpoint(f"8.8.99.{number}", 4500)
    lab = Lab(alice, bob, *mallories)
    for mallory in mallories[:4]:
        mallory.links.connect(alice.peer, NOW)
        lab.settle(NOW)
    assert len(alice.links) == 2
    assert alice.links.drops()[LinkDrop.LIMIT] == 2
    bob.links.connect(alice.peer, NOW)
    lab.settle(NOW)
    assert len(alice.links) == 3
    mallories[0].links.close(alice.identity.overlay_address, NOW)
    lab.settle(NOW)
    mallories[4].links.connect(alice.peer, NOW + 1)
    lab.settle(NOW + 1)
    assert len(alice.links) == 3


@pytest.mark.parametrize(
    ("settings", "address"),
    [
        (LinkSettings(max_half_open_per_prefix=2, cookie_above_initiations_per_s=1), "9.9.9.9"),
        (LinkSettings(max_half_open=2, cookie_above_initiations_per_s=1), "9.{}.9.9"),
    ],
)
def test_half_open_links_with_a_cookie_are_bounded_in_all_and_per_prefix(settings, address):
    bob = Host(2, settings)
    for number in range(10, 14):
        alice = Host(number)
        alice.links.connect(bob.peer, NOW)
        lab = Lab(alice, bob)
        alice.endpoint = Endpoint(address.format(number), 1024 + number)
        lab = Lab(alice, bob)
        lab.settle(NOW, is_not_a(MessageType.CONFIRM))
    assert len(bob.links) == 3, "the first came without a cookie, so it counts apart"
    assert bob.links.drops()[LinkDrop.LIMIT] == 1
    bob.links.handle_deadline(NOW + settings.unconfirmed_s)
    assert len(bob.links) == 0


def test_an_existing_link_is_rekeyed_even_at_the_limits():
    settings = LinkSettings(max_links=1, max_accepted_links=1, max_half_open=1)
    alice, bob, lab = connected(settings)
    alice.links.rekey(bob.identity.overlay_address, NOW + 1)
    lab.run(NOW + 1, NOW + 40)
    assert mirrored(alice, bob)
    assert isinstance(alice.log[-1], LinkSaRemoved)


def test_a_spi_that_another_pair_to_the_same_host_has_is_refused():
    bob = Host(2)
    alice, mallory = Host(3), Host(3)
    mallory.identity = Host(4).identity
    mallory.restart(4)
    mallory.endpoint = Endpoint(alice.endpoint.host, 999)
    lab = Lab(alice, bob, mallory)
    alice.links.connect(bob.peer, NOW)
    mallory.links.connect(bob.peer, NOW)
    lab.settle(NOW)
    assert bob.links.drops()[LinkDrop.REFUSED] == 1
    assert len(bob.links) == 1


def under_load() -> tuple[Host, Host, Lab]:
    alice, bob = Host(1), Host(2, LinkSettings(cookie_above_initiations_per_s=1))
    filler = Host(3)
    filler.links.connect(bob.peer, NOW)
    [(data, _)] = filler.links.datagrams_to_send(NOW)
    bob.links.receive([(data, filler.endpoint)], NOW)
    bob.links.events()
    bob.links.datagrams_to_send(NOW)
    return alice, bob, Lab(alice, bob)


def test_under_load_an_initiator_must_bring_a_cookie_and_does():
    alice, bob, lab = under_load()
    alice.links.connect(bob.peer, NOW)
    lab.settle(NOW)
    kinds = [data[0] for data, _, _ in lab.sent[:4]]
    assert kinds == [
        MessageType.INITIATION,
        MessageType.COOKIE_REPLY,
        MessageType.INITIATION,
        MessageType.RESPONSE,
    ]
    assert mirrored(alice, bob)
    assert bob.links.drops() == {LinkDrop.COOKIE: 1}


def test_under_load_a_changed_mac2_or_another_source_is_not_answered_with_a_response():
    alice, bob, lab = under_load()
    alice.links.connect(bob.peer, NOW)
    lab.step(NOW)
    lab.step(NOW)
    [(with_cookie, _)] = alice.links.datagrams_to_send(NOW)
    for data in flips(with_cookie, len(with_cookie)):
        bob.links.receive([(data, alice.endpoint)], NOW)
    bob.links.receive([(with_cookie, Endpoint("9.9.9.9", 4500))], NOW)
    bob.links.receive([(with_cookie, Endpoint(alice.endpoint.host, 4501))], NOW)
    sent = bob.links.datagrams_to_send(NOW)
    assert len(sent) == 125, "half of the cookie replies of 50 ms"
    assert {data[0] for data, _ in sent} == {MessageType.COOKIE_REPLY}
    bob.links.receive([(with_cookie, alice.endpoint)], NOW)
    [(data, _)] = bob.links.datagrams_to_send(NOW)
    assert data[0] == MessageType.RESPONSE


def test_a_changed_or_second_cookie_reply_is_ignored():
    alice, bob, lab = under_load()
    alice.links.connect(bob.peer, NOW)
    lab.step(NOW)
    [(reply, _)] = bob.links.datagrams_to_send(NOW)
    for data in variants(reply) + flips(reply, len(reply)):
        alice.links.receive([(data, bob.endpoint)], NOW)
    assert alice.links.datagrams_to_send(NOW) == []
    alice.links.receive([(reply, bob.endpoint), (reply, bob.endpoint)], NOW)
    assert len(alice.links.datagrams_to_send(NOW)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("address", ["9.9.9.7", "9.9.8.7", "9.8.8.7"])
def test_under_load_an_initiator_is_answered_whatever_its_neighbours_send(address):
    """They have cookies, and use all that they get of a second, before its own packets come."""
    bob = Host(2, LinkSettings(cookie_above_initiations_per_s=1))
    for step in range(3):
        for number in range(60):
            alice = Host(100 + number, seed=step)
            alice.endpoint = Endpoint("9.9.9.9", 1024 + number)
            alice.links.connect(bob.peer, NOW + step)
            lab = Lab(alice, bob)
            for _ in range(3):
                lab.step(NOW + step)
    honest = Host(99)
    honest.endpoint = Endpoint(address, 4500)
    honest.links.connect(bob.peer, NOW + 2)
    Lab(honest, bob).settle(NOW + 2)
    assert mirrored(honest, bob) or len(honest.usable) == 1


def with_allocator(host: Host, allocate) -> None:
    host.links = Links(host.identity, "lab", host.settings, bob_rng(), allocate, host.free.add)


def test_a_half_open_peer_may_try_again_where_its_prefix_is_full():
    alice, bob = Host(1), Host(2, LinkSettings(max_half_open_per_prefix=1))
    lab = Lab(alice, bob)
    alice.links.connect(bob.peer, NOW)
    lost = iter([True])
    lab.run(NOW, NOW + 10, lambda data: data[0] != MessageType.RESPONSE or not next(lost, False))
    assert mirrored(alice, bob)


def test_a_peer_may_use_an_spi_again_after_its_pair_is_gone():
    alice, bob = Host(1), Host(2)
    with_allocator(alice, lambda: 4711)
    lab = Lab(alice, bob)
    for step in range(2):
        alice.links.connect(bob.peer, NOW + step)
        lab.settle(NOW + step)
        assert mirrored(alice, bob)
        alice.links.close(bob.identity.overlay_address, NOW + step)
        lab.settle(NOW + step)


@pytest.mark.parametrize("exhausted", [1, 2])
def test_exhausted_spis_only_delay_a_link(exhausted):
    alice, bob = Host(1), Host(2)
    short = alice if exhausted == 1 else bob
    failures = iter([True])

    def allocate():
        if next(failures, False):
            raise LimitReached("no SPI left")
        return 4711

    with_allocator(short, allocate)
    if short is bob:
        with_allocator(alice, lambda: 4711)  # the same SPI again: the failed claim must be gone
    lab = Lab(alice, bob)
    alice.links.connect(bob.peer, NOW)
    lab.run(NOW, NOW + 10)
    assert mirrored(alice, bob)
    assert bob.links.drops() == ({LinkDrop.LIMIT: 1} if short is bob else {})
