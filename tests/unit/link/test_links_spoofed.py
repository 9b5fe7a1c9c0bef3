"""Initiations with forged source addresses take no room that an honest node needs."""

from __future__ import annotations

from itertools import count
from random import Random

import pytest
from link_lab import NOW, Host, Lab, mirrored

from overlay.addresses import Endpoint
from overlay.identity import LocalIdentity
from overlay.link.bounds import AcceptedTable, HalfOpenTable
from overlay.link.events import LinkClosed
from overlay.link.handshake import MessageType
from overlay.link.links import LinkDrop, Links
from overlay.link.settings import LinkSettings

VICTIM = {4: Endpoint("9.9.9.9", 4500), 6: Endpoint("2a00:1:2:399::9", 4500)}
FORGED = {4: "9.9.9.{}", 6: "2a00:1:2:3{:02x}::1"}
"""Other addresses of the victim's IPv4 /24 and IPv6 /56."""


class Spoofer:
    """Makes initiations under ever new identities; it sees no answer to a forged address."""

    def __init__(self, family: int, seed: int = 0) -> None:
        self.rng, self.number, self.family = Random(seed), count(), family

    def initiation(self, target: Host, now: float) -> tuple[bytes, Endpoint]:
        number = next(self.number)
        links = Links(
            LocalIdentity.generate(self.rng),
            "lab",
            LinkSettings(),
            self.rng,
            lambda: self.rng.randrange(256, 2**32),
            lambda spi: None,
        )
        links.connect(target.peer, now)
        [(data, _)] = links.datagrams_to_send(now)
        host = FORGED[self.family].format(10 + number % 200)
        return data, Endpoint(host, 1024 + number)


def flood(hosts: list[Host], rate: float, now: float, until: float, family: int) -> None:
    """Send forged initiations to each host; follow their deadlines meanwhile."""
    spoofer = Spoofer(family)
    while now < until:
        for host in hosts:
            host.links.handle_deadline(now)
            host.links.receive([spoofer.initiation(host, now)], now)
            host.take_events()
            host.links.datagrams_to_send(now)  # to addresses that the attacker does not have
        now += 1 / rate


@pytest.mark.slow
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("rate", [2.4, 10.0, 50.0])
def test_a_victim_reaches_all_relays_while_its_prefix_is_forged_at_four_of_five(rate, family):
    victim = Host(1)
    victim.endpoint = VICTIM[family]
    relays = [Host(number) for number in range(2, 7)]
    start = NOW + 32 / rate  # twice as many as the share of a prefix
    flood(relays[:4], rate, NOW, start, family)
    lab = Lab(victim, *relays)
    for relay in relays:
        relay.links.handle_deadline(start)
        victim.links.connect(relay.peer, start)
    lab.settle(start)
    assert all(len(relay.usable) == 1 for relay in relays)
    assert len(victim.usable) == len(relays)


def test_forged_initiations_cost_a_new_peer_one_round_trip_and_a_known_peer_nothing_else():
    victim, relay = Host(1), Host(2)
    victim.endpoint = VICTIM[4]
    lab = Lab(victim, relay)
    victim.links.connect(relay.peer, NOW)
    lab.settle(NOW)
    flood([relay], 50.0, NOW + 1, NOW + 2, 4)
    sent = len(lab.sent)
    victim.links.rekey(relay.identity.overlay_address, NOW + 2)
    lab.run(NOW + 2, NOW + 2.1)
    kinds = [data[0] for data, source, _ in lab.sent[sent:] if source == victim.endpoint]
    assert kinds == [MessageType.INITIATION, MessageType.CHALLENGE, MessageType.CONFIRM]
    assert len(victim.pairs) == 2
    assert not any(isinstance(event, LinkClosed) for event in victim.log + relay.log)


def test_what_forged_initiations_hold_is_little_and_goes_by_itself():
    relay = Host(2)
    flood([relay], 20.0, NOW, NOW + 5, 4)
    assert len(relay.links) == relay.settings.max_unproved_half_open_per_prefix
    assert relay.links.drops()[LinkDrop.COOKIE] > 90
    spoofer = Spoofer(4)
    for number in range(100):
        data, _ = spoofer.initiation(relay, NOW + 10)
        relay.links.receive([(data, Endpoint(f"7.7.{number}.1", 4500))], NOW + 10)
    assert len(relay.links) <= relay.settings.max_unproved_half_open
    relay.links.handle_deadline(NOW + 10 + relay.settings.unconfirmed_s)
    assert len(relay.links) == 0


@pytest.mark.parametrize(
    "bounds", [{"max_accepted_links": 16}, {"max_accepted_links_per_prefix": 2}]
)
def test_forged_initiations_take_no_place_of_accepted_links(bounds):
    victim, other, relay = Host(1), Host(3), Host(2, LinkSettings(**bounds))
    victim.endpoint, other.endpoint = VICTIM[4], Endpoint("9.9.9.8", 4500)
    flood([relay], 10.0, NOW, NOW + 1, 4)
    assert len(relay.links) >= 2
    lab = Lab(victim, other, relay)
    for host in (victim, other):
        host.links.connect(relay.peer, NOW + 1)
    lab.settle(NOW + 1)
    assert len(victim.usable) == len(other.usable) == 1


def test_a_link_whose_address_was_proved_by_its_confirmation_counts_for_its_prefix():
    relay = Host(2, LinkSettings(max_accepted_links_per_prefix=2))
    hosts = [Host(number) for number in range(3, 6)]
    for number, host in enumerate(hosts):
        host.endpoint = Endpoint(f"9.9.9.{number}", 4500)
    lab = Lab(relay, *hosts)
    for host in hosts:
        host.links.connect(relay.peer, NOW)
        lab.settle(NOW)
    assert [len(host.usable) for host in hosts] == [1, 1, 0]
    assert relay.links.drops() == {LinkDrop.LIMIT: 1}


def test_the_tables_count_proved_and_unproved_addresses_apart():
    settings = LinkSettings(
        max_half_open=3, max_unproved_half_open=3, max_unproved_half_open_per_prefix=2
    )
    half_open, accepted = HalfOpenTable(settings), AcceptedTable(settings)
    peers = [LocalIdentity.generate(Random(n)).overlay_address for n in range(4)]
    here, elsewhere = Endpoint("9.9.9.9", 1), Endpoint("9.9.8.9", 1)
    for peer in peers[:2]:
        half_open.note(peer, here)
        accepted.add(peer, here, proved=False)
    assert half_open.wants_cookie(here)
    assert not half_open.wants_cookie(elsewhere)
    half_open.note(peers[2], elsewhere)
    assert half_open.wants_cookie(Endpoint("1.1.1.1", 1))
    half_open.note(peers[2], elsewhere, proved=True)
    assert not half_open.wants_cookie(elsewhere)
    assert accepted.unproved == 2
    assert accepted.settle(peers[0], here)
    assert accepted.settle(peers[3], here)
    assert accepted.unproved == 1


def open_with_forged_first_copy(relay: Host, attacker: Host, forged: Endpoint) -> None:
    """Open a link of which the first copy of the initiation came from a forged address."""
    attacker.links.connect(relay.peer, NOW)
    [(data, _)] = attacker.links.datagrams_to_send(NOW)
    for source in (forged, attacker.endpoint):
        relay.links.receive([(data, source)], NOW)
    Lab(attacker, relay).settle(NOW)


def test_a_link_counts_where_its_peer_is_and_not_where_its_first_copy_came_from():
    relay = Host(2, LinkSettings(max_accepted_links_per_prefix=2))
    attackers = [Host(number) for number in range(10, 14)]
    for number, attacker in enumerate(attackers):
        attacker.endpoint = Endpoint("6.6.6.6", 1024 + number)
        open_with_forged_first_copy(relay, attacker, Endpoint(f"9.9.9.{number + 10}", 4500))
    assert [len(attacker.usable) for attacker in attackers] == [1, 1, 0, 0]
    assert relay.links.drops()[LinkDrop.LIMIT] == 2
    assert len(relay.links) == 2
    victim = Host(1)
    victim.endpoint = VICTIM[4]
    victim.links.connect(relay.peer, NOW)
    Lab(victim, relay).settle(NOW)
    assert len(victim.usable) == 1


def test_a_link_that_moves_is_counted_at_its_new_endpoint():
    table = AcceptedTable(LinkSettings(max_accepted_links_per_prefix=1))
    peers = [LocalIdentity.generate(Random(n)).overlay_address for n in range(2)]
    here, elsewhere = Endpoint("9.9.9.9", 1), Endpoint("6.6.6.6", 1)
    table.add(peers[0], here, proved=True)
    assert table.settle(peers[0], elsewhere)
    assert table.admits(here)
    assert not table.admits(elsewhere)
    table.add(peers[1], here, proved=True)
    assert table.settle(peers[1], elsewhere, in_use=True), "a move ends no link"
    assert not table.admits(here), "which keeps its place"
    assert not table.settle(peers[1], elsewhere)
    assert table.admits(here)


def test_links_of_one_ipv4_prefix_take_no_place_of_an_unrelated_one():
    table = AcceptedTable(LinkSettings())
    for number in range(64):
        peer = LocalIdentity.generate(Random(number)).overlay_address
        table.add(peer, Endpoint(f"203.7.{number % 16}.{number}", 1), proved=True)
    assert table.admits(Endpoint("4.203.7.5", 1))
    assert table.admits(Endpoint("5.203.7.5", 1))


def test_an_initiator_keeps_its_cookie_for_later_attempts():
    victim, relay = Host(1), Host(2)
    victim.endpoint = VICTIM[4]
    flood([relay], 50.0, NOW, NOW + 1, 4)
    lab = Lab(victim, relay)
    victim.links.connect(relay.peer, NOW + 1)
    to_lose = [MessageType.RESPONSE]

    def keep(data: bytes) -> bool:
        if to_lose and data[0] == to_lose[0]:
            to_lose.pop()
            return False
        return True

    lab.run(NOW + 1, NOW + 2, keep)
    assert mirrored(victim, relay)
    asked = [data for data, _, _ in lab.sent if data[0] == MessageType.COOKIE_REPLY]
    assert len(asked) == 1
