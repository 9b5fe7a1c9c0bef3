"""Many identities at few addresses ask for links; others get one throughout."""

import ipaddress
from itertools import count

import pytest
from link_lab import NOW, Host, Lab

from overlay.addresses import Endpoint
from overlay.link.drops import LinkDrop
from overlay.link.handshake import MessageType
from overlay.link.settings import LinkSettings
from overlay.work_budget import Work, WorkBudget

PLACES = LinkSettings(
    max_links=48,
    max_accepted_links=36,
    max_half_open=24,
)
ATTACKERS = {
    "one IPv4 address": ("77.1.2.66/32", 32),
    "one IPv4 /24": ("77.1.2.0/24", 32),
    "one IPv4 /16": ("77.1.0.0/16", 24),
    "one IPv6 /56": ("2a02:1234:5678:100::/56", 64),
    "one IPv6 /48": ("2a02:1234:5678::/48", 56),
    "one IPv6 /32": ("2a02:1234::/32", 48),
}


def inside(prefix, bits):
    """Endpoints in ever new networks of ``bits`` bits within a prefix."""
    network = ipaddress.ip_network(prefix)
    step = 2 ** (network.max_prefixlen - bits)
    for number in count():
        host = network[(number * step + 7) % network.num_addresses]
        yield Endpoint(str(host), 1024 + number)


def stranger(endpoint, numbers=count(100)):  # noqa: B008 - one count for all
    host = Host(next(numbers))
    host.endpoint = endpoint
    return host


def is_no_confirm(data):
    return data[0] != MessageType.CONFIRM


@pytest.mark.slow
@pytest.mark.parametrize("confirms", [True, False])
@pytest.mark.parametrize("where", ATTACKERS)
def test_others_get_links_while_one_prefix_asks_for_all(where, confirms):
    relay = Host(1, PLACES)
    endpoints = inside(*ATTACKERS[where])
    now = NOW
    for burst in range(6):
        for _ in range(12):
            attacker = stranger(next(endpoints))
            attacker.links.connect(relay.peer, now)
            Lab(attacker, relay).settle(now, *([] if confirms else [is_no_confirm]))
        honest = stranger(Endpoint(f"45.{burst}.7.7", 4500))
        honest.links.connect(relay.peer, now)
        Lab(honest, relay).settle(now)
        assert len(honest.usable) == 1
        now += 2.0


@pytest.mark.parametrize("where", ATTACKERS)
def test_links_that_the_node_opens_take_no_share_of_a_prefix(where):
    """Others choose the next hop of a circuit, and could name a victim's prefix."""
    relay = Host(1, PLACES)
    endpoints = inside(*ATTACKERS[where])
    for _ in range(30):
        relay.links.connect(stranger(next(endpoints)).peer, NOW)
    assert len(relay.links) == 30
    victim = stranger(next(endpoints))
    victim.links.connect(relay.peer, NOW)
    Lab(victim, relay).settle(NOW)
    assert len(victim.usable) == 1


def test_initiations_beyond_the_budget_are_dropped_until_the_next_second():
    relay = Host(1, PLACES)
    relay.budget = WorkBudget(20 * Work.HANDSHAKE.value)
    relay.restart(1)
    for number in range(12):
        attacker = stranger(Endpoint("77.1.2.66", 1024 + number))
        attacker.links.connect(relay.peer, NOW)
        Lab(attacker, relay).settle(NOW)
    assert len(relay.links) <= 2 + 2, "those with a forged address, and those with a proved one"
    assert relay.links.drops()[LinkDrop.LIMIT] > 0
    honest = stranger(Endpoint("45.6.7.7", 4500))
    honest.links.connect(relay.peer, NOW)
    lab = Lab(honest, relay)
    lab.run(NOW, NOW + 3)
    assert len(honest.usable) == 1


def test_forged_initiations_that_use_up_their_cpu_time_cost_others_a_round_trip():
    relay = Host(1)
    relay.budget = WorkBudget(20 * Work.HANDSHAKE.value)
    relay.restart(1)
    forged = stranger(Endpoint("5.5.5.5", 5))
    forged.links.connect(relay.peer, NOW)
    [(data, _)] = forged.links.datagrams_to_send(NOW)
    relay.links.receive([(data, Endpoint(f"{n}.3.3.3", 5)) for n in range(40, 60)], NOW)
    relay.take_events()
    relay.links.datagrams_to_send(NOW)
    honest = stranger(Endpoint("45.6.7.7", 4500))
    honest.links.connect(relay.peer, NOW)
    Lab(honest, relay).settle(NOW)
    assert len(honest.usable) == 1
