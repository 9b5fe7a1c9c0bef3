"""A link outlives handshakes that an observer spoils, and ends with its peer or its keys."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from random import Random

import pytest
from link_lab import NOW, Host, Lab, mirrored

from overlay.addresses import Endpoint
from overlay.link.cookie import CookieJar, ReceiverKeys
from overlay.link.drops import LinkDrop
from overlay.link.events import LinkClosed, LinkFailed
from overlay.link.handshake import GEOMETRY, MessageType
from overlay.link.lifetimes import hard_s
from overlay.link.outgoing import MAX_COOKIES
from overlay.link.settings import LinkSettings
from overlay.work_budget import WorkBudget
from sims.world.engine.conditions import Flight

EVIL = Endpoint("6.6.6.6", 666)
HANDSHAKE = {MessageType.INITIATION, MessageType.RESPONSE, MessageType.COOKIE_REPLY}


def linked(settings: LinkSettings | None = None) -> tuple[Host, Host, Lab]:
    alice, bob = Host(1), Host(2, settings)
    lab = Lab(alice, bob)
    alice.links.connect(bob.peer, NOW)
    lab.settle(NOW)
    assert mirrored(alice, bob)
    return alice, bob, lab


def ends(*hosts: Host) -> list:
    return [e for host in hosts for e in host.log if isinstance(e, LinkClosed | LinkFailed)]


def no_handshakes(data: bytes) -> bool:
    return data[0] not in HANDSHAKE


def test_a_link_whose_peer_answers_outlives_rekeyings_that_fail():
    alice, bob, lab = linked()
    alice.links.rekey(bob.identity.overlay_address, NOW + 5)
    now = lab.run(NOW + 5, NOW + 605, keep=no_handshakes)
    assert ends(alice, bob) == []
    assert mirrored(alice, bob)
    before = set(alice.usable)
    lab.run(now, now + 150)
    assert mirrored(alice, bob)
    assert set(alice.usable) != before, "replaced as soon as handshakes pass again"


def test_attempts_that_fail_come_more_and_more_rarely():
    alice, bob, lab = linked()
    alice.links.rekey(bob.identity.overlay_address, NOW + 5)
    sent = len(lab.sent)
    lab.run(NOW + 5, NOW + 605, keep=no_handshakes)
    initiations = sum(data[0] == MessageType.INITIATION for data, _, _ in lab.sent[sent:])
    assert 5 < initiations < 60


@pytest.mark.parametrize("worn", [False, True])
def test_a_peer_that_is_silent_on_the_current_pair_as_well_ends_the_link(worn):
    alice, bob, lab = linked()
    if worn:  # some time after a rekeying that failed
        alice.links.rekey(bob.identity.overlay_address, NOW + 5)
        lab.run(NOW + 5, NOW + 16, keep=no_handshakes)
    alice.links.rekey(bob.identity.overlay_address, NOW + 20)
    lab.run(NOW + 20, NOW + 31, keep=lambda data: False)
    assert [type(event) for event in ends(alice)] == [LinkClosed]


def test_a_link_ends_when_its_keys_are_used_up():
    alice, bob, lab = linked()
    until = NOW + hard_s(alice.settings)
    lab.run(NOW, until - 1, keep=no_handshakes)
    assert ends(alice, bob) == []
    lab.run(until - 1, until + 1, keep=no_handshakes)
    assert {type(event) for event in ends(alice)} == {LinkClosed}


def test_a_recorded_echo_shows_no_sign_of_life():
    alice, bob, lab = linked()
    alice.links.rekey(bob.identity.overlay_address, NOW + 5)
    lab.run(NOW + 5, NOW + 16, keep=no_handshakes)
    echoes = [
        data
        for data, source, _ in lab.sent
        if source == bob.endpoint and data[0] in (MessageType.ECHO, MessageType.OWN_ADDRESS)
    ]
    assert echoes
    alice.links.rekey(bob.identity.overlay_address, NOW + 20)
    for step in range(11):
        alice.links.receive([(data, bob.endpoint) for data in echoes], NOW + 20 + step)
        lab.run(NOW + 20 + step, NOW + 20 + step, keep=lambda data: False)
        alice.links.handle_deadline(NOW + 21 + step)
    alice.take_events()
    assert [type(event) for event in ends(alice)] == [LinkClosed]


class Forger(Lab):
    """A network on which an observer answers each initiation with cookies of its own first."""

    def __init__(self, alice: Host, bob: Host, forged: int) -> None:
        super().__init__(alice, bob)
        self.forged = forged
        self.rng = Random(1)
        self.network.impose(self.with_forged_cookies)

    def with_forged_cookies(self, flight: Flight) -> Iterator[Flight]:
        data = flight.datagram
        if data[0] == MessageType.INITIATION:
            receiver = self.network.host_at(flight.to)
            assert isinstance(receiver, Host)
            link_key = receiver.identity.link_key
            keys = ReceiverKeys.of(link_key, hashlib.sha256(b"lab").digest())
            for _ in range(self.forged):
                reply = CookieJar(keys, self.rng).reply(data, EVIL, self.heap.now)
                yield replace(flight, datagram=reply, source=flight.to, to=flight.source)
        yield flight


def demanding(settings: LinkSettings) -> Host:
    """A node that asks every initiator for a cookie, because a flood is under way."""
    bob = Host(2, settings)
    bob.budget = WorkBudget(math.inf)
    bob.restart(2)
    return bob


BUSY = LinkSettings(max_unproved_half_open=1)


def occupy(bob: Host, now: float) -> None:
    filler = Host(3)
    filler.links.connect(bob.peer, now)
    bob.links.receive([(filler.links.datagrams_to_send(now)[0][0], filler.endpoint)], now)
    bob.take_events()
    bob.links.datagrams_to_send(now)


@pytest.mark.parametrize("forged", [4, 40, 200])
def test_forged_cookies_do_not_delay_a_rekeying(forged):
    alice, bob = Host(1), demanding(BUSY)
    alice.links.connect(bob.peer, NOW)
    Lab(alice, bob).settle(NOW)
    lab = Forger(alice, bob, forged)
    before = set(alice.usable)
    occupy(bob, NOW + 5)
    alice.links.rekey(bob.identity.overlay_address, NOW + 5)
    lab.run(NOW + 5, NOW + 5.2)
    assert set(alice.usable) > before
    lab.run(NOW + 5.2, NOW + 7)
    assert mirrored(alice, bob)
    assert ends(alice, bob) == []


@pytest.mark.parametrize("forged", [4, 31, 50])
def test_a_new_link_opens_although_cookies_are_forged(forged):
    alice, bob = Host(1), demanding(BUSY)
    occupy(bob, NOW)
    lab = Forger(alice, bob, forged)
    alice.links.connect(bob.peer, NOW)
    occupy(bob, NOW + 9)
    lab.run(NOW, NOW + 9.9)
    assert len(alice.usable) == 1


def test_forged_cookie_replies_are_read_and_answered_within_bounds():
    alice, bob = Host(1), Host(2)
    alice.links.connect(bob.peer, NOW)
    [(initiation, _)] = alice.links.datagrams_to_send(NOW)
    keys = ReceiverKeys.of(bob.identity.link_key, hashlib.sha256(b"lab").digest())
    jar = Random(1)
    for _ in range(3000):
        reply = CookieJar(keys, jar).reply(initiation, EVIL, NOW)
        alice.links.receive([(reply, bob.endpoint)], NOW)
    sent = alice.links.datagrams_to_send(NOW)
    assert len(sent) == MAX_COOKIES
    assert alice.links.drops()[LinkDrop.REFUSED] == 3000 - MAX_COOKIES
    alice.links.handle_deadline(NOW + 1)
    assert len(alice.links.datagrams_to_send(NOW + 1)) <= MAX_COOKIES + 1


def test_forged_responses_with_a_known_index_cost_little_and_the_genuine_one_counts():
    alice, bob = Host(1), Host(2)
    alice.links.connect(bob.peer, NOW)
    [(initiation, _)] = alice.links.datagrams_to_send(NOW)
    bob.links.receive([(initiation, alice.endpoint)], NOW)
    [(genuine, _)] = bob.links.datagrams_to_send(NOW)
    rng = Random(1)
    head = genuine[: GEOMETRY.header]
    forged = [head + rng.randbytes(len(genuine) - len(head)) for _ in range(1000)]
    began = time.process_time()
    alice.links.receive([(data, bob.endpoint) for data in forged], NOW)
    spent_s = time.process_time() - began
    assert alice.links.drops() == {LinkDrop.NOT_AUTHENTIC: 1000}
    assert spent_s < 1000 * 0.00008, "two key exchanges each would take twice as long"
    alice.links.receive([(genuine, bob.endpoint)], NOW)
    alice.take_events()
    assert len(alice.usable) == 1


def test_a_pair_cookie_is_good_at_the_endpoint_of_its_link_alone():
    alice, bob, _ = linked(LinkSettings(max_unproved_half_open=1))
    occupy(bob, NOW + 5)
    alice.links.rekey(bob.identity.overlay_address, NOW + 5)
    [(initiation, _), _challenge] = alice.links.datagrams_to_send(NOW + 5)
    for source, answer in [
        (EVIL, MessageType.COOKIE_REPLY),
        (alice.endpoint, MessageType.RESPONSE),
    ]:
        bob.links.receive([(initiation, source)], NOW + 5)
        bob.take_events()
        assert [data[0] for data, _ in bob.links.datagrams_to_send(NOW + 5)] == [answer]
