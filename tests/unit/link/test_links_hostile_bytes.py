"""Handshakes with changed, late, replayed or foreign messages."""

from __future__ import annotations

import math

import pytest
from connected_links import connected, flips, variants
from link_lab import NOW, Host, mirrored

from overlay.addresses import Endpoint
from overlay.link.events import (
    LinkClosed,
    LinkEstablished,
    LinkFailure,
)
from overlay.link.handshake import GEOMETRY
from overlay.link.links import LinkDrop


def exchange() -> tuple[Host, Host, bytes, bytes]:
    alice, bob = Host(1), Host(2)
    alice.links.connect(bob.peer, NOW)
    [(initiation, _)] = alice.links.datagrams_to_send(NOW)
    bob.links.receive([(initiation, alice.endpoint)], NOW)
    [(response, _)] = bob.links.datagrams_to_send(NOW)
    return alice, bob, initiation, response


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
        lab.network.host_at(target).links.receive([(data, source)], NOW + 1)
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
