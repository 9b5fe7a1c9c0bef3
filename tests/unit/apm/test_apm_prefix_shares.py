"""Many identities at few addresses ask one relay for everything; others are served throughout."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from random import Random

import pytest
from apm_fakes import NOW, Actor, FakeBackend, control, controls
from apm_lab import lab_settings
from apm_onions import exit_layer, relay_layer, send

from overlay.addresses import OVERLAY_PREFIX, Endpoint, OverlayAddress
from overlay.apm.control import Confirm, Refuse, Teardown, TeardownReason
from overlay.ipsec.interface import IpsecConfiguration
from overlay.link.security import LinkSecurity

RNG = Random(31)
REQIDS = count(1)
BURST, BURSTS = 40, 8
"""320 requests in all, 400 in a second: more than any table below has places."""

PLACES = lab_settings(
    max_circuits=100,
    max_circuits_per_neighbour=20,
    max_held_onions=48,
    max_replay_entries=120,
    max_replay_entries_per_neighbour=25,
    max_closing_circuits=60,
)


class ForgetfulBackend(FakeBackend):
    """Takes everything and holds nothing, because the strict one takes quadratic time."""

    def install(self, configuration: IpsecConfiguration) -> None:
        pass

    def remove(self, configuration: IpsecConfiguration) -> None:
        pass


@dataclass(frozen=True)
class Stranger:
    """An identity that has a link to the relay from some address."""

    address: OverlayAddress
    endpoint: Endpoint


def stranger(host: str) -> Stranger:
    return Stranger(OverlayAddress(OVERLAY_PREFIX + RNG.randbytes(12)), Endpoint(host, 4500))


def link(relay: Actor, peer: Stranger, now: float) -> None:
    security = LinkSecurity(next(REQIDS), relay.endpoint.packed, peer.endpoint.packed)
    relay.manager.link_established(peer.address, security, now)


def inside(prefix: str, step_bits: int) -> Iterator[str]:
    """Addresses in ever new networks of ``step_bits`` bits within a prefix."""
    network = ipaddress.ip_network(prefix)
    step = 2 ** (network.max_prefixlen - step_bits)
    size = network.num_addresses
    return (str(network[(number * step + 7) % size]) for number in count())


ATTACKERS = {
    "one IPv4 address": lambda: inside("203.0.113.66/32", 32),
    "one IPv4 /24": lambda: inside("203.0.113.0/24", 32),
    "one IPv4 /16": lambda: inside("203.0.0.0/16", 24),
    "one IPv6 /56": lambda: inside("2a02:1234:5678:100::/56", 64),
    "one IPv6 /48": lambda: inside("2a02:1234:5678::/48", 56),
    "one IPv6 /32": lambda: inside("2a02:1234::/32", 48),
    "one private address": lambda: inside("10.1.0.66/32", 32),
    "6to4 of one IPv4 /16": lambda: inside("2002:cb00::/32", 48),
}


def ask_for_exit(relay: Actor, peer: Stranger, now: float) -> None:
    send(peer, relay, exit_layer(peer, relay), now)


def ask_for_unknown_next_hop(relay: Actor, peer: Stranger, now: float) -> None:
    """The onion waits here for a link."""
    send(peer, relay, relay_layer(peer, relay, stranger("9.9.9.9").address), now)


def ask_for_refusal(relay: Actor, peer: Stranger, now: float) -> None:
    send(peer, relay, relay_layer(peer, relay, relay.address), now)


def open_and_tear_down(relay: Actor, peer: Stranger, now: float) -> None:
    """The SAs and the inner address linger when the circuit is over."""
    layer = exit_layer(peer, relay)
    send(peer, relay, layer, now)
    relay.hears(control(layer.terms.near, relay.address, Teardown(TeardownReason.CLOSED)), now=now)


Ask = Callable[[Actor, Stranger, float], None]
ASKS: list[Ask] = [ask_for_exit, ask_for_unknown_next_hop, ask_for_refusal, open_and_tear_down]


@pytest.mark.slow
@pytest.mark.parametrize("ask", ASKS, ids=lambda ask: ask.__name__)
@pytest.mark.parametrize("where", ATTACKERS)
def test_many_identities_at_few_addresses_never_close_a_relay(where: str, ask: Ask) -> None:
    relay = Actor(2, PLACES, make_backend=ForgetfulBackend)
    hosts = ATTACKERS[where]()
    now = NOW
    for burst in range(BURSTS):
        for _ in range(BURST // 4):
            attacker = stranger(next(hosts))
            link(relay, attacker, now)
            for _ in range(4):
                ask(relay, attacker, now)
                now += 1 / 400
        relay.manager.handle_deadline(now)
        relay.sends()
        honest = stranger(f"45.{burst}.7.7")
        link(relay, honest, now)
        ask_for_exit(relay, honest, now)
        assert [type(message) for message in controls(relay.sends())] == [Confirm]
        relay.manager.link_lost(honest.address, now)


@pytest.mark.slow
@pytest.mark.parametrize("ask", ASKS, ids=lambda ask: ask.__name__)
def test_shares_hold_with_default_settings(ask: Ask) -> None:
    """One address has at most a ninth of any table, rounded up."""
    relay = Actor(2, lab_settings(), make_backend=ForgetfulBackend)
    settings = relay.settings
    now = NOW
    for number in range(300):
        attacker = stranger("203.0.113.66")
        link(relay, attacker, now)
        for _ in range(2):
            ask(relay, attacker, now)
        now += 1 / 20
        if number % 20 == 0:
            relay.manager.handle_deadline(now)
            relay.sends()
        report = relay.manager.relay_report()
        assert report.exits + report.relayed + report.waiting <= settings.max_circuits // 9 + 1
        assert report.waiting <= settings.max_held_onions // 9 + 1
        assert report.closing <= settings.max_closing_circuits // 9 + 1
        assert report.remembered_onions <= settings.max_replay_entries // 9 + 1


def test_small_pool_of_an_exit_is_not_taken_by_one_address() -> None:
    relay = Actor(2, lab_settings(), inner_v4=ipaddress.IPv4Network("100.64.0.0/27"))
    for _ in range(40):
        attacker = stranger("203.0.113.66")
        link(relay, attacker, NOW)
        ask_for_exit(relay, attacker, NOW)
    answers = [type(message) for message in controls(relay.sends())]
    assert answers.count(Confirm) == 15, "half of 30 addresses"
    honest = stranger("198.18.7.7")
    link(relay, honest, NOW)
    ask_for_exit(relay, honest, NOW)
    assert [type(message) for message in controls(relay.sends())] == [Confirm]


def test_what_was_torn_down_frees_its_share() -> None:
    relay = Actor(2, replace(PLACES, max_replay_entries=10_000))
    now = NOW
    for _ in range(12):
        attacker = stranger("203.0.113.66")
        link(relay, attacker, now)
        for _ in range(4):
            ask_for_exit(relay, attacker, now)
        relay.manager.link_lost(attacker.address, now)
        answers = [type(message) for message in controls(relay.sends())]
        assert answers == [Confirm] * 4
    assert relay.manager.relay_report().exits == 0


def test_refusal_that_cannot_be_sent_leaves_no_trace() -> None:
    """Objection before memory: no replay entry, no SA, no event."""
    relay = Actor(2, lab_settings(max_closing_circuits=2, max_circuits=1))
    peers = [stranger("203.0.113.66") for _ in range(6)]
    for peer in peers:
        link(relay, peer, NOW)
        ask_for_refusal(relay, peer, NOW)
    assert [type(message) for message in controls(relay.sends())] == [Refuse]
    report = relay.manager.relay_report()
    assert (report.remembered_onions, report.closing) == (1, 1)
    assert len(relay.backend.installed) == 1
