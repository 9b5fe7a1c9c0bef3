"""Pairs are replaced, two initiations cross, and links close."""

from __future__ import annotations

import math

import pytest
from connected_links import connected, flips, is_not_a, variants
from link_lab import NOW, Host, Lab, mirrored

from overlay.addresses import Endpoint
from overlay.link.events import (
    LinkClosed,
    LinkEstablished,
    LinkFailed,
    LinkFailure,
    LinkPeer,
    LinkSaRemoved,
    LinkSaRetired,
)
from overlay.link.handshake import MessageType
from overlay.link.machine import MAX_OLD_PAIRS


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
    lab.detach(alice)
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
    lab.move(alice, Endpoint("9.9.9.9", 1234))
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
