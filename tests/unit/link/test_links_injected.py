"""An observer that injects copies of packets from elsewhere, and drops nothing, moves no link."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import replace
from random import Random

import pytest
from link_lab import NOW, Host, Lab, mirrored

from overlay.addresses import Endpoint
from overlay.link.cookie import CookieJar, ReceiverKeys
from overlay.link.events import LinkClosed, LinkEstablished, LinkFailed
from overlay.link.handshake import GEOMETRY, MessageType
from overlay.link.settings import LinkSettings
from overlay.work_budget import WorkBudget
from sims.world.engine.conditions import Flight

EVIL = Endpoint("6.6.6.6", 666)
EVERY_KIND = frozenset(MessageType)


class Observed(Lab):
    """A network on which an observer copies what it sees.

    ``kinds`` are copied, ``before`` or after the original, or ``instead`` of the first of each
    kind. What is sent to the observer it passes on to the other host under the sender's
    address, if it ``forwards``.
    """

    def __init__(self, alice: Host, bob: Host, kinds, order: str, *, forwards: bool) -> None:
        super().__init__(alice, bob)
        self.kinds, self.order, self.forwards = kinds, order, forwards
        self.withheld: set[int] = set()
        self.to_evil: list[bytes] = []
        self.network.impose(self.with_copies)

    def with_copies(self, flight: Flight) -> Iterator[Flight]:
        data = flight.datagram
        if flight.to == EVIL:
            self.to_evil.append(data)
            others = [each for each in self.hosts if each.endpoint != flight.source]
            for other in others if self.forwards else ():
                yield replace(flight, to=other.endpoint)
            return
        copied = data[0] in self.kinds
        if copied and self.order in ("before", "instead"):
            yield replace(flight, source=EVIL)
        if self.order == "instead" and copied and data[0] not in self.withheld:
            self.withheld.add(data[0])
            return
        yield flight
        if copied and self.order == "after":
            yield replace(flight, source=EVIL)


def single_kinds():
    return [frozenset({kind}) for kind in MessageType]


def never_at_evil(*hosts: Host) -> bool:
    usable = [e for h in hosts for e in h.log if isinstance(e, LinkEstablished) and e.usable]
    return bool(usable) and all(event.endpoint != EVIL for event in usable)


def no_end(*hosts: Host) -> bool:
    return not any(isinstance(e, LinkClosed | LinkFailed) for host in hosts for e in host.log)


ATTACKS = [
    pytest.param(kinds, order, forwards, id=f"{'+'.join(k.name for k in kinds)}-{order}-{forwards}")
    for kinds in [*single_kinds(), EVERY_KIND]
    for order in ("before", "after", "instead")
    for forwards in (False, True)
]


@pytest.mark.slow
@pytest.mark.parametrize(("kinds", "order", "forwards"), ATTACKS)
def test_a_rekeyed_link_stays_where_it_is_whatever_is_copied(kinds, order, forwards):
    alice, bob = Host(1), Host(2)
    calm = Lab(alice, bob)
    alice.links.connect(bob.peer, NOW)
    calm.settle(NOW)
    lab = Observed(alice, bob, kinds, order, forwards=forwards)
    for step, (one, other) in enumerate([(alice, bob), (bob, alice)]):
        lab.withheld.clear()
        one.links.rekey(other.identity.overlay_address, NOW + 10 + 40 * step)
        lab.run(NOW + 10 + 40 * step, NOW + 49 + 40 * step)
        assert mirrored(alice, bob)
    assert never_at_evil(alice, bob)
    assert no_end(alice, bob)


def wins_every_race(kinds, order, forwards) -> bool:
    """Tell whether the observer is faster than the direct way with every message."""
    return kinds is EVERY_KIND and order != "after" and forwards


@pytest.mark.slow
@pytest.mark.parametrize("behind_nat", [False, True])
@pytest.mark.parametrize("cookies", [False, True])
@pytest.mark.parametrize(("kinds", "order", "forwards"), ATTACKS)
def test_a_new_link_opens_to_the_peer_itself_whatever_is_copied(
    kinds, order, forwards, cookies, behind_nat
):
    settings = LinkSettings(cookie_above_initiations_per_s=1) if cookies else LinkSettings()
    alice, bob = Host(1), Host(2, settings)
    alice.behind_nat = behind_nat
    lab = Observed(alice, bob, kinds, order, forwards=forwards)
    alice.links.connect(bob.peer, NOW)
    lab.run(NOW, NOW + 9)
    assert mirrored(alice, bob)
    assert no_end(alice, bob)
    if not wins_every_race(kinds, order, forwards):
        assert never_at_evil(alice, bob)
    elif not behind_nat and order == "before":
        assert bob.log[-1].endpoint == alice.endpoint, "corrected, since nothing was withheld"


def test_an_observer_gets_no_more_bytes_than_it_sends():
    alice, bob = Host(1), Host(2)
    Lab(alice, bob).settle(NOW)
    lab = Observed(alice, bob, EVERY_KIND, "before", forwards=False)
    alice.links.connect(bob.peer, NOW)
    lab.run(NOW, NOW + 9)
    copied = [data for data, _, target in lab.sent if target == bob.endpoint]
    assert lab.to_evil
    assert sum(map(len, lab.to_evil)) <= sum(map(len, copied))
    assert GEOMETRY.notice <= GEOMETRY.initiation - GEOMETRY.response


@pytest.mark.parametrize("invented", [1, 3])
def test_invented_cookies_do_not_keep_the_genuine_one_out(invented):
    """An observer of an initiation can encrypt a cookie reply for it."""
    alice, filler = Host(1), Host(3)
    bob = Host(2, LinkSettings(max_unproved_half_open=1))
    filler.links.connect(bob.peer, NOW)
    bob.links.receive([(filler.links.datagrams_to_send(NOW)[0][0], filler.endpoint)], NOW)
    bob.take_events()
    bob.links.datagrams_to_send(NOW)
    alice.links.connect(bob.peer, NOW)
    [(initiation, _)] = alice.links.datagrams_to_send(NOW)
    keys = ReceiverKeys.of(bob.identity.link_key, hashlib.sha256(b"lab").digest())
    for number in range(invented):
        reply = CookieJar(keys, Random(number)).reply(initiation, EVIL, NOW)
        alice.links.receive([(reply, bob.endpoint)] * 2, NOW)
    assert len(alice.links.datagrams_to_send(NOW)) == invented
    bob.links.receive([(initiation, alice.endpoint)], NOW)
    [(genuine, _)] = bob.links.datagrams_to_send(NOW)
    assert genuine[0] == MessageType.COOKIE_REPLY
    alice.links.receive([(genuine, bob.endpoint)], NOW)
    Lab(alice, bob).settle(NOW)
    assert mirrored(alice, bob)


def test_a_copied_initiation_is_answered_once_for_each_copy_and_at_the_peer_too():
    alice, bob = Host(1), Host(2)
    bob.budget = WorkBudget(math.inf)
    bob.restart(2)
    alice.links.connect(bob.peer, NOW)
    [(initiation, _)] = alice.links.datagrams_to_send(NOW)
    copies = [(initiation, Endpoint(f"6.6.6.{number}", 666)) for number in range(1, 20)]
    bob.links.receive([*copies, (initiation, alice.endpoint)], NOW)
    answers = bob.links.datagrams_to_send(NOW)
    assert len(answers) == len(copies) + 1
    assert {data[0] for data, _ in answers} == {MessageType.RESPONSE}
    assert alice.endpoint in [target for _, target in answers]
    assert all(len(data) < len(initiation) for data, _ in answers)
    assert len(bob.links) == 1


def moved(*, behind_nat: bool) -> tuple[Host, Host, Lab]:
    """A link whose initiator has come to another address, and rekeys from there."""
    alice, bob = Host(1), Host(2)
    alice.behind_nat = behind_nat
    lab = Lab(alice, bob)
    alice.links.connect(bob.peer, NOW)
    lab.settle(NOW)
    lab.move(alice, Endpoint("9.9.9.9", 1234))
    alice.links.rekey(bob.identity.overlay_address, NOW + 5)
    lab.run(NOW + 5, NOW + 5.1)
    return alice, bob, lab


def test_a_peer_that_moved_behind_nat_is_followed_as_soon_as_it_is_silent_where_it_was():
    alice, bob, lab = moved(behind_nat=True)
    assert bob.log[-1].endpoint == Endpoint("8.8.1.1", 4500), "not before it had time to answer"
    lab.run(NOW + 5.1, NOW + 5.2)
    renewed = [e for e in bob.log if isinstance(e, LinkEstablished) and e.usable]
    assert renewed[-1].endpoint == alice.endpoint
    lab.run(NOW + 5.2, NOW + 60)
    assert mirrored(alice, bob)
    assert no_end(alice, bob)


def test_a_peer_that_moved_to_an_address_of_its_own_is_followed_at_once():
    alice, bob, lab = moved(behind_nat=False)
    [_, renewed] = [e for e in bob.log if isinstance(e, LinkEstablished) and e.usable]
    assert renewed.endpoint == alice.endpoint
    lab.run(NOW + 5.1, NOW + 60)
    assert mirrored(alice, bob)


def test_a_host_with_the_same_spi_at_the_new_endpoint_keeps_it():
    alice, bob, carol = Host(1), Host(2), Host(3)
    lab = Lab(alice, bob, carol)
    alice.spis = carol.spis = iter(range(5000, 6000))
    alice.links.connect(bob.peer, NOW)
    carol.links.connect(bob.peer, NOW)
    lab.settle(NOW)
    assert len(bob.links) == 2
    lab.move(alice, Endpoint(carol.endpoint.host, 999))
    alice.spis = iter([next(iter(carol.pairs))])
    alice.restart(7)
    alice.links.connect(bob.peer, NOW + 5)
    lab.run(NOW + 5, NOW + 60)
    assert any(keys.outbound_spi in carol.pairs for keys in bob.usable.values())


def copied_before(flight: Flight) -> Iterator[Flight]:
    """Let copies of each initiation arrive before it, from other endpoints."""
    if flight.datagram[0] == MessageType.INITIATION:
        for number in range(6):
            yield replace(flight, source=Endpoint(EVIL.host, EVIL.port + number))
    yield flight


@pytest.mark.parametrize("exists", [False, True])
def test_copies_that_arrive_first_keep_the_answer_from_no_peer(exists):
    alice, bob = Host(1), Host(2)
    alice.links.connect(bob.peer, NOW)
    if exists:
        Lab(alice, bob).settle(NOW)
        alice.links.rekey(bob.identity.overlay_address, NOW + 10)
    lab = Lab(alice, bob)
    lab.network.impose(copied_before)
    lab.run(NOW + 10, NOW + 20)
    assert len(alice.usable) == 1
    assert len(alice.pairs) == 1 + exists
    assert no_end(alice, bob)
    assert never_at_evil(alice, bob)
