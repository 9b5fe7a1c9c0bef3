# ruff: noqa: F811 - fixtures of another module
"""Paths on request: protected, opened, rebuilt and closed."""

import math
from ipaddress import ip_network

import pytest
from requested_paths import (
    BOB,
    NOW,
    VC,
    World,
    mix,
    world,  # noqa: F401 - fixtures
)

from overlay.addresses import InnerAddress
from overlay.apm.events import CircuitEnd, CircuitFailed, CircuitLost
from overlay.dht.descriptor import Role
from overlay.errors import (
    CircuitRefused,
    CircuitTimedOut,
    ConfigurationError,
    NoSuitablePath,
    PluginError,
)
from overlay.paths.path_table import MAX_PATHS
from overlay.paths.requested_path import PathState, PathTerms


def test_a_destination_is_protected_before_its_first_circuit_and_carried_after_it(world):
    path = world.request()
    assert world.kill_switch.protected == {BOB}
    assert not world.kill_switch.carried
    world.open(path.circuit)
    assert path.state is PathState.OPEN
    assert path.settled
    assert world.kill_switch.carried == {BOB: VC}


def test_a_lost_circuit_leaves_the_kill_switch_and_is_replaced(world):
    path = world.request()
    world.open(1)
    world.paths.handle(CircuitLost(1, CircuitEnd.UNANSWERED), NOW + 60)
    assert path.state is PathState.REBUILDING
    assert world.kill_switch.protected == {BOB}
    assert not world.kill_switch.carried
    world.paths.handle_deadline(world.paths.next_deadline())
    world.open(2, NOW + 61)
    assert path.state is PathState.OPEN
    assert world.kill_switch.carried == {BOB: VC}


def test_a_path_whose_inner_address_is_given_up_is_built_anew_behind_the_kill_switch(world):
    path = world.request()
    world.open(1)
    assert world.paths.held() == [VC]
    world.paths.give_up(frozenset({InnerAddress(bytes(4))}), NOW)
    assert path.state is PathState.OPEN
    world.paths.give_up(frozenset({VC}), NOW)
    assert path.state is PathState.REBUILDING
    assert (world.circuits.closed, world.paths.held()) == ([1], [])
    assert (world.kill_switch.protected, world.kill_switch.carried) == ({BOB}, {})


def test_circuits_that_are_torn_down_as_soon_as_they_open_are_replaced_ever_more_slowly(world):
    """Else one hostile hop makes a source build circuits as fast as the network carries them."""
    path, now, pauses = world.request(), NOW, []
    for _ in range(7):
        world.open(path.circuit, now)
        world.paths.handle(CircuitLost(path.circuit, CircuitEnd.TORN_DOWN), now + 0.1)
        pauses.append(world.paths.next_deadline() - now - 0.1)
        now = world.paths.next_deadline()
        world.paths.handle_deadline(now)
    assert pauses == pytest.approx([1, 2, 5, 10, 30, 30, 30], abs=1e-3)
    world.open(path.circuit, now)
    world.paths.handle(CircuitLost(path.circuit, CircuitEnd.UNANSWERED), now + 600)
    assert world.paths.next_deadline() < now + 601, "one that lasted is replaced at once"


def test_only_the_first_circuit_of_a_path_counts_as_first_try(world):
    path = world.request()
    world.open(path.circuit)
    for number in range(1, 4):
        now = NOW + 60 * number
        world.paths.handle(CircuitLost(path.circuit, CircuitEnd.UNANSWERED), now)
        world.paths.handle_deadline(world.paths.next_deadline())
        world.open(path.circuit, now + 1)
    assert (world.paths.first_tries, world.paths.opened_at_first_try) == (1, 1)


def test_the_hop_that_refused_is_avoided_at_the_next_attempt(world):
    path = world.request()
    refusing = world.circuits.opened[0].hops[0]
    world.paths.handle(CircuitFailed(1, CircuitRefused("no", hop=1, reason="limit")), NOW)
    for _ in range(2):
        world.paths.handle_deadline(world.paths.next_deadline())
        assert refusing not in world.circuits.opened[-1].hops
        world.paths.handle(CircuitFailed(path.circuit, CircuitTimedOut("late")), NOW + 5)


def test_a_node_that_was_silent_in_the_last_crawl_is_chosen_only_if_no_other_is_left(world):
    heard = [d for d in world.table if Role.EXIT in d.roles][:1]
    heard += [d for d in world.table if Role.EXIT not in d.roles][:2]
    for descriptor in heard:
        world.table.heard(descriptor.node_id, NOW)
    world.table.crawled(NOW)
    path = world.request()
    assert {hop.node_id for hop in world.circuits.opened[0].hops} == {d.node_id for d in heard}
    refusing = CircuitRefused("no", hop=1, reason="limit")
    world.paths.handle(CircuitFailed(path.circuit, refusing), NOW)
    world.paths.handle_deadline(world.paths.next_deadline())
    second = {hop.node_id for hop in world.circuits.opened[1].hops}
    assert world.circuits.opened[0].hops[0].node_id not in second
    assert second - {d.node_id for d in heard}


def test_a_path_that_never_opened_ends_with_the_last_error_and_without_kill_switch(world):
    path = world.request()
    now = NOW
    while not path.settled:
        world.paths.handle(CircuitFailed(path.circuit, CircuitTimedOut("late")), now)
        now = max(now + 1, min(world.paths.next_deadline(), now + 100))
        world.paths.handle_deadline(now)
    assert isinstance(path.error, CircuitTimedOut)
    assert world.paths.all() == []
    assert not world.kill_switch.protected
    assert world.paths.next_deadline() == math.inf


def test_asker_hears_sooner_if_every_path_goes_through_what_failed():
    """One exit that does not answer: two attempts of up to 8 s, where four would take 35 s."""
    world = World([mix(1), mix(2), mix(3, exits=True)])
    path = world.request()
    refused = CircuitRefused("hop 2 refused", hop=2, reason="UNREACHABLE")
    world.paths.handle(CircuitFailed(1, refused), NOW)
    assert not path.settled, "one failure may be chance"
    world.paths.handle_deadline(NOW + 1)
    world.paths.handle(CircuitFailed(2, refused), NOW + 2)
    assert path.settled
    assert path.error is refused


def test_plugin_that_fails_is_told_at_once():
    world = World([mix(1), mix(2), mix(3, exits=True)])
    path = world.request()
    world.paths.handle(CircuitFailed(1, PluginError("the strategy failed.")), NOW)
    assert isinstance(path.error, PluginError)


def test_closing_tears_the_circuit_down_and_releases_the_destination(world):
    path = world.request()
    world.open(1)
    world.paths.close(path.number, NOW)
    assert world.circuits.closed == [1]
    assert not world.kill_switch.protected
    with pytest.raises(ConfigurationError, match="there is no path 1"):
        world.paths.close(path.number, NOW)


def test_no_path_means_no_kill_switch_left():
    world = World([mix(1), mix(2, exits=True)])
    with pytest.raises(NoSuitablePath):
        world.request()
    assert not world.kill_switch.protected
    assert world.paths.all() == []


def test_one_destination_has_one_path(world):
    world.request()
    with pytest.raises(ConfigurationError, match="path 1 serves this destination already"):
        world.request()
    assert world.kill_switch.protected == {BOB}


def test_what_a_dead_node_had_protected_stays_protected_and_is_rebuilt(world):
    world.paths.adopt_all([PathTerms(BOB, 3, "uniform")], NOW)
    assert world.kill_switch.protected == {BOB}
    world.paths.handle_deadline(NOW)
    assert len(world.circuits.opened) == 1
    world.open(1)
    assert world.kill_switch.carried == {BOB: VC}


def test_adopted_destinations_wait_for_a_topology_without_spinning():
    world = World([mix(1)])
    world.paths.adopt_all([PathTerms(BOB, 3, "uniform")], NOW)
    now = NOW
    for _ in range(50):
        world.paths.handle_deadline(now)
        assert world.paths.next_deadline() > now
        now = world.paths.next_deadline()
    assert now > NOW + 300
    assert world.kill_switch.protected == {BOB}


def test_the_number_of_paths_is_bounded(world):
    for n in range(MAX_PATHS):
        world.request(ip_network(f"203.1.{n}.1/32"))
    with pytest.raises(ConfigurationError, match="256 paths"):
        world.request(ip_network("198.51.101.1/32"))
