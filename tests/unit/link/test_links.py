from __future__ import annotations

import itertools
import math

import pytest
from link_lab import NOW, Host, Lab, mirrored

from overlay.addresses import Endpoint
from overlay.errors import LimitReached
from overlay.ipsec.suites import SUITES
from overlay.link.events import (
    LinkClosed,
    LinkEstablished,
    LinkFailed,
    LinkFailure,
    LinkPeer,
    LinkSaRemoved,
    LinkSaRetired,
)
from overlay.link.handshake import GEOMETRY, MessageType
from overlay.link.links import LinkDrop, Links
from overlay.link.machine import MAX_OLD_PAIRS
from overlay.link.settings import LinkSettings


def is_a(kind: MessageType):
    return lambda data: data[0] == kind


def is_not_a(*kinds: MessageType):
    return lambda data: data[0] not in kinds


def connected(settings: LinkSettings | None = None) -> tuple[Host, Host, Lab]:
    alice, bob = Host(1, settings), Host(2, settings)
    lab = Lab(alice, bob)
    alice.links.connect(bob.peer, NOW)
    lab.settle(NOW)
    assert mirrored(alice, bob)
    return alice, bob, lab


# Opening


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


def bob_rng():
    from random import Random

    return Random(99)


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


# Failing


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


# Hostile bytes, in the fixed order


def exchange() -> tuple[Host, Host, bytes, bytes]:
    alice, bob = Host(1), Host(2)
    alice.links.connect(bob.peer, NOW)
    [(initiation, _)] = alice.links.datagrams_to_send(NOW)
    bob.links.receive([(initiation, alice.endpoint)], NOW)
    [(response, _)] = bob.links.datagrams_to_send(NOW)
    return alice, bob, initiation, response


def variants(message: bytes) -> list[bytes]:
    truncated = [message[:end] for end in range(len(message))]
    return [*truncated, message + b"\0", message + message]


def flips(message: bytes, end: int) -> list[bytes]:
    flipped = []
    for bit in range(8 * end):
        changed = bytearray(message)
        changed[bit // 8] ^= 0x80 >> bit % 8
        flipped.append(bytes(changed))
    return flipped


def test_a_changed_initiation_is_not_answered():
    alice, _, initiation, _ = exchange()
    bob = Host(2)
    covered = len(initiation) - GEOMETRY.mac  # mac2 is looked at under load alone
    for data in variants(initiation) + flips(initiation, covered):
        bob.links.receive([(data, alice.endpoint)], NOW)
    assert bob.links.datagrams_to_send(NOW) == []
    assert bob.links.events() == []
    bob.links.receive([(initiation, alice.endpoint)], NOW)
    assert len(bob.links.events()) == 1


def test_a_changed_response_is_ignored_and_the_genuine_one_still_counts():
    alice, bob, _, response = exchange()
    for data in variants(response) + flips(response, len(response)):
        alice.links.receive([(data, bob.endpoint)], NOW)
    assert alice.links.events() == []
    alice.links.receive([(response, bob.endpoint)], NOW)
    [event] = alice.links.events()
    assert event.usable


def test_a_response_from_another_endpoint_is_ignored():
    alice, _, _, response = exchange()
    alice.links.receive([(response, Endpoint("9.9.9.9", 4500))], NOW)
    assert alice.links.events() == []
    assert alice.links.drops() == {LinkDrop.UNKNOWN: 1}


def test_replayed_messages_change_nothing():
    alice, bob, lab = connected()
    alice_log, bob_log = list(alice.log), list(bob.log)
    for data, source, target in list(lab.sent):
        lab.hosts[target].links.receive([(data, source)], NOW + 1)
    for data, source, _ in lab.sent:  # and to the wrong side
        for host in (alice, bob):
            host.links.receive([(data, source)], NOW + 1)
    lab.settle(NOW + 1)
    assert (alice.log, bob.log) == (alice_log, bob_log)
    assert mirrored(alice, bob)


def test_an_older_initiation_that_arrives_late_is_refused():
    alice, bob = Host(1), Host(2)
    alice.links.connect(bob.peer, NOW)
    [(first, _)] = alice.links.datagrams_to_send(NOW)
    later = alice.links.next_deadline()
    alice.links.handle_deadline(later)
    [(second, _)] = alice.links.datagrams_to_send(later)
    bob.links.receive([(second, alice.endpoint), (first, alice.endpoint)], later)
    assert bob.links.drops() == {LinkDrop.REPLAYED: 1}
    [(response, _)] = bob.links.datagrams_to_send(later)
    alice.links.receive([(response, bob.endpoint)], later)
    assert len(alice.links.events()) == 1


@pytest.mark.parametrize("late_s", [601.0, -601.0])
def test_an_initiation_beyond_the_clock_skew_is_refused(late_s):
    alice, _, initiation, _ = exchange()
    bob = Host(2)
    bob.links.receive([(initiation, alice.endpoint)], NOW + late_s)
    assert bob.links.drops() == {LinkDrop.REPLAYED: 1}


def test_a_replay_after_a_restart_leaves_no_usable_link():
    alice, bob, lab = connected()
    initiation = lab.sent[0][0]
    bob.restart(77)
    bob.links.receive([(initiation, alice.endpoint)], NOW + 1)
    bob.take_events()
    assert bob.usable == {}
    for data, source, target in list(lab.sent):
        if target == bob.endpoint:
            bob.links.receive([(data, source)], NOW + 1)
    bob.links.handle_deadline(NOW + 1 + bob.settings.unconfirmed_s)
    bob.take_events()
    assert not any(isinstance(event, LinkEstablished) and event.usable for event in bob.log)
    assert bob.log[-1] == LinkClosed(alice.identity.overlay_address, LinkFailure.TIMED_OUT)
    assert (bob.pairs, len(bob.links), bob.links.next_deadline()) == ({}, 0, math.inf)


def test_no_unproven_address_gets_more_bytes_than_it_sent():
    assert GEOMETRY.response + GEOMETRY.notice <= GEOMETRY.initiation
    assert GEOMETRY.cookie_reply <= GEOMETRY.initiation
    _alice, bob, initiation, response = exchange()
    bob.links.close_all(NOW)
    [(close, _)] = bob.links.datagrams_to_send(NOW)
    assert len(response) + len(close) <= len(initiation)


# Limits


def test_links_beyond_the_limit_fail_with_limit():
    alice = Host(1, LinkSettings(max_links=2, max_accepted_links=1))
    others = [Host(number) for number in range(2, 6)]
    lab = Lab(alice, *others)
    others[0].links.connect(alice.peer, NOW)
    lab.settle(NOW)
    others[1].links.connect(alice.peer, NOW)  # a stranger too many
    lab.settle(NOW)
    assert len(alice.links) == 1
    assert alice.links.drops()[LinkDrop.LIMIT] == 1
    alice.links.connect(others[2].peer, NOW)  # room is kept for our own choice
    alice.links.connect(others[3].peer, NOW)
    assert alice.take_events() == [
        LinkFailed(others[3].identity.overlay_address, LinkFailure.LIMIT)
    ]
    assert len(alice.links) == 2


def test_strangers_of_one_prefix_take_no_more_than_their_share_of_links():
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


# Cookies


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


# Both at once


@pytest.mark.parametrize("lost", [None, *MessageType])
def test_simultaneous_initiations_end_in_one_shared_pair(lost):
    alice, bob = Host(1), Host(2)
    lab = Lab(alice, bob)
    alice.links.connect(bob.peer, NOW)
    bob.links.connect(alice.peer, NOW)
    if lost is None:
        lab.settle(NOW)
    else:
        dropped = iter([lost] * 2)
        pending = next(dropped)

        def keep(data: bytes) -> bool:
            nonlocal pending
            if data[0] == pending:
                pending = next(dropped, None)
                return False
            return True

        lab.run(NOW, NOW + 20, keep)
    lab.run(NOW + 20, NOW + 120)
    assert mirrored(alice, bob)
    assert len(alice.pairs) == len(bob.pairs) == 1


@pytest.mark.parametrize("deaf", [1, 2])
def test_simultaneous_initiations_work_if_one_cannot_reach_the_other_first(deaf):
    alice, bob = Host(1), Host(2)
    lab = Lab(alice, bob)
    wrong = Endpoint("9.9.9.9", 9)
    first, second = (alice, bob) if deaf == 1 else (bob, alice)
    first.links.connect(
        LinkPeer(second.identity.overlay_address, second.identity.link_key, wrong), NOW
    )
    second.links.connect(first.peer, NOW)
    lab.run(NOW, NOW + 100)
    assert mirrored(alice, bob)


# Rekeying


def test_rekeying_keeps_the_old_pair_for_its_grace_and_then_retires_it():
    alice, bob, lab = connected()
    [old] = alice.pairs
    alice.links.rekey(bob.identity.overlay_address, NOW + 5)
    lab.settle(NOW + 5)
    assert isinstance(alice.log[-1], LinkEstablished)
    assert alice.log[-1].rekeyed
    assert len(alice.pairs) == len(bob.pairs) == 2
    lab.run(NOW + 5, NOW + 5 + alice.settings.retired_sa_s - 1)
    assert len(alice.pairs) == 2
    lab.run(NOW + 34, NOW + 36)
    assert old not in alice.pairs
    assert old in alice.free
    assert mirrored(alice, bob)


def test_the_responder_keeps_sending_on_the_old_pair_until_the_new_one_is_proven():
    alice, bob, lab = connected()
    alice.links.rekey(bob.identity.overlay_address, NOW + 5)
    lab.settle(NOW + 5, is_not_a(MessageType.CONFIRM))
    assert [event.usable for event in bob.log] == [False, True, False]
    lab.run(NOW + 5, NOW + 100)
    assert bob.log[3].usable
    assert mirrored(alice, bob)


def test_links_rekey_by_time_and_the_initiator_does_it():
    alice, bob, lab = connected()
    start = len(lab.sent)
    lab.run(NOW, NOW + alice.settings.rekey_after_s + 60)
    rekeys = [source for data, source, _ in lab.sent[start:] if data[0] == MessageType.INITIATION]
    assert rekeys == [alice.endpoint]
    assert mirrored(alice, bob)


def test_the_responder_rekeys_if_the_initiator_does_not():
    alice, bob, lab = connected()
    lab.hosts.pop(alice.endpoint)
    lab.run(NOW, NOW + 3 * alice.settings.rekey_after_s)
    assert bob.log[-1] == LinkClosed(alice.identity.overlay_address, LinkFailure.TIMED_OUT)
    assert bob.pairs == {}


def test_both_rekeying_at_once_end_in_one_shared_pair():
    alice, bob, lab = connected()
    alice.links.rekey(bob.identity.overlay_address, NOW + 5)
    bob.links.rekey(alice.identity.overlay_address, NOW + 5)
    lab.run(NOW + 5, NOW + 100)
    assert mirrored(alice, bob)
    assert len(alice.pairs) == len(bob.pairs) == 1


def test_an_unacknowledged_link_is_given_up():
    alice, bob = Host(1), Host(2)
    lab = Lab(alice, bob)
    alice.links.connect(bob.peer, NOW)
    lab.run(NOW, NOW + 100, is_not_a(MessageType.CONFIRM))
    for host in (alice, bob):
        assert isinstance(host.log[-1], LinkClosed)
        assert host.log[-1].reason is LinkFailure.TIMED_OUT
        assert host.pairs == {}


def test_a_restarted_peer_replaces_the_old_link():
    alice, bob, lab = connected()
    alice.restart(55)
    alice.links.connect(bob.peer, NOW + 5)
    lab.run(NOW + 5, NOW + 100)
    assert mirrored(alice, bob)
    renewed, superseded, retired = bob.log[-3:]
    assert renewed.rekeyed
    assert isinstance(superseded, LinkSaRetired)
    assert isinstance(retired, LinkSaRemoved)


def test_a_peer_that_moved_is_answered_at_its_new_endpoint():
    alice, bob, lab = connected()
    lab.hosts.pop(alice.endpoint)
    alice.endpoint = Endpoint("9.9.9.9", 1234)
    lab.hosts[alice.endpoint] = alice
    alice.links.rekey(bob.identity.overlay_address, NOW + 5)
    lab.run(NOW + 5, NOW + 100)
    assert mirrored(alice, bob)
    assert bob.log[-3].endpoint == alice.endpoint


def test_a_peer_that_rekeys_fast_does_not_grow_our_tables():
    alice, bob, lab = connected()
    for step in range(1, 10):
        alice.links.rekey(bob.identity.overlay_address, NOW + step)
        lab.settle(NOW + step)
    assert len(alice.pairs) == len(bob.pairs) == 1 + MAX_OLD_PAIRS


def test_a_replaced_pair_ends_to_send_soon_and_to_receive_after_its_grace():
    alice, bob, lab = connected()
    [old] = alice.pairs
    alice.links.rekey(bob.identity.overlay_address, NOW + 5)
    lab.settle(NOW + 5)
    assert all(len(host.usable) == 2 for host in (alice, bob)), "for what is under way"
    lab.run(NOW + 5, NOW + 5 + alice.settings.rekey_pause_s / 2)
    assert mirrored(alice, bob)
    assert old in alice.pairs
    lab.run(NOW + 6, NOW + 100)
    told = [event for event in alice.log if isinstance(event, LinkSaRetired)]
    assert told == [LinkSaRetired(bob.identity.overlay_address, old)]
    assert old not in alice.pairs


def test_a_pair_is_not_replaced_before_it_has_rested_however_worn_it_is():
    alice, bob, lab = connected()
    pause = alice.settings.rekey_pause_s
    [worn] = bob.pairs
    bob.links.rekey(alice.identity.overlay_address, NOW + pause / 4, worn=worn)
    lab.run(NOW + pause / 4, NOW + pause - 0.01)
    assert len(bob.pairs) == 1
    lab.run(NOW + pause - 0.01, NOW + pause)
    assert len(bob.pairs) == 2
    assert mirrored(alice, bob) is False
    bob.links.rekey(alice.identity.overlay_address, NOW + 3 * pause, worn=worn)
    lab.run(NOW + pause, NOW + 5 * pause)
    assert len(bob.pairs) == 2, "what has been replaced asks for nothing"


def test_a_pair_that_wears_out_before_it_is_proven_is_replaced_afterwards():
    alice, bob, lab = connected()
    alice.links.rekey(bob.identity.overlay_address, NOW + 5)
    lab.settle(NOW + 5, is_not_a(MessageType.CONFIRM))
    offered = max(bob.pairs)
    assert offered not in bob.usable
    bob.links.rekey(alice.identity.overlay_address, NOW + 5.1, worn=offered)
    lab.run(NOW + 5.1, NOW + 8)
    assert max(bob.usable) > offered
    assert mirrored(alice, bob)


# Closing


def test_a_close_drops_the_link_at_both_ends():
    alice, bob, lab = connected()
    alice.links.close(bob.identity.overlay_address, NOW + 1)
    lab.settle(NOW + 1)
    assert alice.log[-1] == LinkClosed(bob.identity.overlay_address, LinkFailure.IDLE)
    assert bob.log[-1] == LinkClosed(alice.identity.overlay_address, LinkFailure.PEER_CLOSED)
    for host in (alice, bob):
        assert (len(host.links), host.links.next_deadline(), len(host.free)) == (0, math.inf, 1)


def test_a_spoofed_or_reflected_close_is_refused():
    alice, bob, _lab = connected()
    alice.links.close_all(NOW + 1)
    [(close, _)] = alice.links.datagrams_to_send(NOW + 1)
    for data in variants(close) + flips(close, len(close)):
        bob.links.receive([(data, alice.endpoint)], NOW + 1)
    bob.take_events()
    assert len(bob.links) == 1
    bob.links.receive([(close, alice.endpoint)], NOW + 1)
    assert len(bob.links) == 0


def test_a_late_close_does_not_drop_the_link_that_replaced_the_closed_one():
    alice, bob, lab = connected()
    alice.links.close(bob.identity.overlay_address, NOW + 1)
    [(close, _)] = alice.links.datagrams_to_send(NOW + 1)
    alice.take_events()
    alice.links.connect(bob.peer, NOW + 2)
    lab.settle(NOW + 2)
    bob.links.receive([(close, alice.endpoint)], NOW + 3)
    lab.run(NOW + 3, NOW + 100)
    assert mirrored(alice, bob)
    assert not any(isinstance(event, LinkClosed) for event in bob.log)


def test_closing_while_connecting_fails_the_link():
    alice, bob = Host(1), Host(2)
    alice.links.connect(bob.peer, NOW)
    alice.links.close_all(NOW)
    assert alice.take_events() == [LinkFailed(bob.identity.overlay_address, LinkFailure.SHUTDOWN)]
    assert len(alice.free) == 1


def test_unknown_links_and_packets_are_no_error():
    alice, bob = Host(1), Host(2)
    alice.links.close(bob.identity.overlay_address, NOW)
    alice.links.rekey(bob.identity.overlay_address, NOW)
    alice.links.handle_deadline(NOW)
    assert alice.links.events() == []


# Numbers and repetition


def with_allocator(host: Host, allocate) -> None:
    host.links = Links(host.identity, "lab", host.settings, bob_rng(), allocate, host.free.add)


def test_a_lost_acknowledgement_is_said_again():
    alice, bob = Host(1), Host(2)
    lab = Lab(alice, bob)
    alice.links.connect(bob.peer, NOW)
    confirms = []

    def keep(data: bytes) -> bool:
        confirms.append(data) if data[0] == MessageType.CONFIRM else None
        return len(confirms) != 2  # the second confirm is the first acknowledgement

    lab.run(NOW, NOW + 100, keep)
    assert len(confirms) == 4
    assert mirrored(alice, bob)


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
