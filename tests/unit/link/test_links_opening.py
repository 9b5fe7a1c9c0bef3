"""Links open, or fail with a reason."""

from __future__ import annotations

import itertools
import math

import pytest
from connected_links import bob_rng, connected, is_not_a
from link_lab import NOW, Host, Lab, mirrored

from overlay.addresses import Endpoint
from overlay.ipsec.suites import SUITES
from overlay.link.events import (
    LinkEstablished,
    LinkFailed,
    LinkFailure,
    LinkPeer,
)
from overlay.link.handshake import MessageType
from overlay.link.links import LinkDrop, Links
from overlay.link.settings import LinkSettings


def test_a_handshake_gives_both_sides_the_same_keys_and_proven_names():
    alice, bob, _ = connected()
    opened = alice.log[0]
    assert isinstance(opened, LinkEstablished)
    assert (opened.overlay_address, opened.node_id) == (
        bob.identity.overlay_address,
        bob.identity.node_id,
    )
    assert opened.endpoint == bob.endpoint
    assert (opened.usable, opened.rekeyed) == (True, False)
    assert opened.keys.suite == 3
    assert len(opened.keys.inbound_keymat) == SUITES[3].keymat_bytes
    assert opened.keys.inbound_keymat != opened.keys.outbound_keymat


def test_the_responder_may_send_only_after_proof():
    alice, bob = Host(1), Host(2)
    lab = Lab(alice, bob)
    alice.links.connect(bob.peer, NOW)
    lab.settle(NOW, is_not_a(MessageType.CONFIRM))
    answered = bob.take_events() or bob.log
    assert [event.usable for event in answered] == [False]
    assert answered[0].overlay_address == alice.identity.overlay_address
    assert answered[0].node_id == alice.identity.node_id
    lab.run(NOW, NOW + 1)  # the confirm is repeated
    assert [event.usable for event in bob.log] == [False, True]
    assert bob.log[0].keys == bob.log[1].keys
    assert mirrored(alice, bob)


def test_the_initiators_favourite_common_suite_is_used():
    alice, bob = Host(1), Host(2)
    bob.links = Links(
        bob.identity, "lab", LinkSettings(), bob_rng(), lambda: next(bob.spis), bob.free.add, (1, 4)
    )
    lab = Lab(alice, bob)
    alice.links.connect(bob.peer, NOW)
    lab.settle(NOW)
    assert [event.keys.suite for event in alice.log] == [4]


def test_without_a_common_suite_nothing_is_answered():
    alice, bob = Host(1), Host(2)
    for host, suites in ((alice, (1,)), (bob, (4,))):
        host.links = Links(
            host.identity,
            "lab",
            host.settings,
            bob_rng(),
            lambda host=host: next(host.spis),
            host.free.add,
            suites,
        )
    lab = Lab(alice, bob)
    alice.links.connect(bob.peer, NOW)
    lab.run(NOW, NOW + 100)
    assert [event.reason for event in alice.log] == [LinkFailure.TIMED_OUT]
    assert bob.log == []
    assert bob.links.drops()[LinkDrop.REFUSED] > 1


@pytest.mark.parametrize("suites", [(), (5,), (1, 1), (0,)])
def test_links_use_aead_suites_only(suites):
    alice = Host(1)
    with pytest.raises(ValueError, match="suites from 1 to 4"):
        Links(
            alice.identity, "lab", alice.settings, bob_rng(), lambda: 1000, alice.free.add, suites
        )


def test_nodes_of_two_networks_do_not_meet():
    alice, bob = Host(1), Host(2)
    bob.links = Links(
        bob.identity, "other", bob.settings, bob_rng(), lambda: next(bob.spis), bob.free.add
    )
    lab = Lab(alice, bob)
    alice.links.connect(bob.peer, NOW)
    lab.run(NOW, NOW + 100)
    assert bob.links.drops() == {LinkDrop.NOT_AUTHENTIC: sum(1 for s in lab.sent)}


def test_connecting_twice_opens_one_link():
    alice, bob, lab = connected()
    sent = len(lab.sent)
    alice.links.connect(bob.peer, NOW)
    lab.settle(NOW)
    assert len(lab.sent) == sent


def test_a_node_has_no_link_to_itself():
    alice = Host(1)
    with pytest.raises(ValueError, match="no link to itself"):
        alice.links.connect(alice.peer, NOW)


def test_a_silent_peer_is_asked_at_growing_intervals_and_then_given_up():
    alice, bob = Host(1), Host(2)
    lab = Lab(alice)
    alice.links.connect(bob.peer, NOW)
    times = [NOW]
    while alice.links.next_deadline() < math.inf:
        times.append(alice.links.next_deadline())
        alice.links.handle_deadline(times[-1])
        assert alice.links.next_deadline() > times[-1]
    alice.take_events()
    assert alice.log == [LinkFailed(bob.identity.overlay_address, LinkFailure.TIMED_OUT)]
    assert times[-1] == NOW + alice.settings.handshake_timeout_s
    lab.settle(times[-1])
    assert len(lab.sent) == len(times) - 1
    sent = [data for data, _, _ in lab.sent]
    attempts = [at for at, data in enumerate(sent) if data not in sent[:at]]
    waits = [times[after] - times[before] for before, after in itertools.pairwise(attempts)]
    assert 0.4 <= waits[0] <= 0.6
    assert waits[1] > waits[0]
    assert max(waits) <= 6.0
    # The first attempt is not repeated, because most peers answer it.
    assert attempts[1] == 1
    # A peer under a flood reads one of ten initiations. It may as well be an invented next hop.
    assert 20 <= len(sent) <= 28
    assert sent == sorted(sent, key=sent.index)
    assert len(alice.links) == 0


def test_a_peer_with_another_identity_than_meant_is_not_authentic():
    alice, bob, mallory = Host(1), Host(2), Host(3)
    lab = Lab(alice, bob, mallory)
    peer = LinkPeer(bob.identity.overlay_address, mallory.identity.link_key, mallory.endpoint)
    alice.links.connect(peer, NOW)
    lab.settle(NOW)
    assert alice.log == [LinkFailed(bob.identity.overlay_address, LinkFailure.NOT_AUTHENTIC)]
    assert len(alice.links) == 0


def test_a_wrong_link_key_is_never_answered():
    alice, bob, mallory = Host(1), Host(2), Host(3)
    lab = Lab(alice, bob)
    peer = LinkPeer(bob.identity.overlay_address, mallory.identity.link_key, bob.endpoint)
    alice.links.connect(peer, NOW)
    lab.run(NOW, NOW + 60)
    assert alice.log == [LinkFailed(bob.identity.overlay_address, LinkFailure.TIMED_OUT)]
    assert {source for _, source, _ in lab.sent} == {alice.endpoint}


@pytest.mark.parametrize("link_key", [bytes(32), b"short", b"\x01" + bytes(31)])
def test_an_unusable_link_key_fails_at_once(link_key):
    alice, bob = Host(1), Host(2)
    alice.links.connect(LinkPeer(bob.identity.overlay_address, link_key, bob.endpoint), NOW)
    assert alice.take_events() == [
        LinkFailed(bob.identity.overlay_address, LinkFailure.NOT_AUTHENTIC)
    ]


@pytest.mark.parametrize(
    "endpoint",
    [
        Endpoint("10.0.0.1", 4500),
        Endpoint("127.0.0.1", 4500),
        Endpoint("::1", 4500),
        Endpoint("fe80::1%eth0", 4500),
        Endpoint("0.0.0.0", 4500),
        Endpoint("224.0.0.1", 4500),
        Endpoint("8.8.8.8", 0),
        Endpoint("name.example", 4500),
        Endpoint("::ffff:8.8.8.8", 4500),
    ],
)
def test_endpoints_that_are_not_allowed_are_neither_written_to_nor_heard(endpoint):
    alice, bob = Host(1), Host(2)
    alice.links.connect(
        LinkPeer(bob.identity.overlay_address, bob.identity.link_key, endpoint), NOW
    )
    assert alice.take_events() == [LinkFailed(bob.identity.overlay_address, LinkFailure.REFUSED)]
    alice.links.connect(bob.peer, NOW)
    [(initiation, _)] = alice.links.datagrams_to_send(NOW)
    bob.links.receive([(initiation, endpoint)], NOW)
    assert bob.links.drops() == {LinkDrop.ENDPOINT: 1}
    assert bob.links.datagrams_to_send(NOW) == []


def test_private_endpoints_are_accepted_where_configured():
    settings = LinkSettings(allow_private_endpoints=True)
    alice, bob = Host(1, settings), Host(2, settings)
    alice.endpoint, bob.endpoint = Endpoint("10.0.0.1", 4500), Endpoint("127.0.0.1", 4500)
    alice.links.connect(bob.peer, NOW)
    Lab(alice, bob).settle(NOW)
    assert mirrored(alice, bob)
