# ruff: noqa: F811 - fixtures of another module
"""Paths whose host refuses the kill switch, a circuit or its end."""

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

from overlay.apm.events import CircuitEnd, CircuitFailed, CircuitLost
from overlay.errors import (
    BackendError,
    CircuitRefused,
    ConfigurationError,
    LimitReached,
)
from overlay.paths.requested_path import PathState, PathTerms


def unknown_strategy(name):
    raise ConfigurationError(f"there is no selection named {name!r}.")


def test_a_destination_that_cannot_be_protected_has_no_path(world):
    world.kill_switch.refuse.add("protect")
    with pytest.raises(BackendError, match="protect failed"):
        world.request()
    assert world.paths.all() == []
    assert not world.circuits.opened


def test_a_circuit_that_cannot_be_carried_ends_an_opening_path_at_once(world):
    path = world.request()
    world.kill_switch.refuse.add("carry")
    world.open(1)
    assert isinstance(path.error, BackendError)
    assert path.settled
    assert world.circuits.closed == [1]
    assert world.paths.all() == []
    assert not world.kill_switch.protected


def test_a_rebuilt_circuit_that_cannot_be_carried_is_tried_again_behind_the_kill_switch(world):
    path = world.request()
    world.open(1)
    world.paths.handle(CircuitLost(1, CircuitEnd.UNANSWERED), NOW + 60)
    world.kill_switch.refuse.add("carry")
    for circuit in (2, 3):
        world.paths.handle_deadline(world.paths.next_deadline())
        world.open(circuit, NOW + 60 + circuit)
        assert path.state is PathState.REBUILDING
        assert world.kill_switch.protected == {BOB}
    world.kill_switch.refuse.clear()
    world.paths.handle_deadline(world.paths.next_deadline())
    world.open(4)
    assert world.kill_switch.carried == {BOB: VC}


def test_a_refused_uncarry_does_not_keep_the_path_from_being_rebuilt(world):
    path = world.request()
    world.open(1)
    world.kill_switch.refuse.add("uncarry")
    world.paths.handle(CircuitLost(1, CircuitEnd.UNANSWERED), NOW + 60)
    assert world.paths.kill_switch_refusals == 1
    world.paths.handle_deadline(world.paths.next_deadline())
    world.open(2)
    assert path.state is PathState.OPEN


def test_a_path_whose_kill_switch_does_not_end_is_closing_until_it_does(world):
    path = world.request()
    world.open(1)
    world.kill_switch.refuse.add("release")
    now = NOW
    with pytest.raises(BackendError, match="path 1 carries nothing any more"):
        world.paths.close(path.number, now)
    for _ in range(5):
        assert (path.state, world.kill_switch.protected) == (PathState.CLOSING, {BOB})
        assert world.paths.next_deadline() > now
        now = world.paths.next_deadline()
        world.paths.handle_deadline(now)
    world.kill_switch.refuse.clear()
    world.paths.handle_deadline(world.paths.next_deadline())
    assert world.paths.all() == []
    assert not world.kill_switch.protected
    assert len(world.circuits.opened) == 1


def test_all_paths_are_closed_with_one_change_of_the_kill_switch(world):
    others = [ip_network(f"198.51.101.{number}/32") for number in range(3)]
    for destination in (BOB, *others):
        world.request(destination)
    world.open(1)
    world.paths.close_all(NOW)
    assert world.paths.all() == []
    assert world.kill_switch.released == [{BOB, *others}]
    assert not world.kill_switch.carried
    assert len(world.circuits.closed) == 4


def test_of_all_paths_those_whose_kill_switch_does_not_end_are_closing(world):
    path, other = world.request(), world.request(ip_network("198.51.101.1/32"))
    world.kill_switch.refuse.add("release")
    with pytest.raises(BackendError, match="path 1 carries nothing any more"):
        world.paths.close_all(NOW)
    assert {path.state, other.state} == {PathState.CLOSING}
    world.kill_switch.refuse.clear()
    world.paths.close_all(NOW)
    assert world.paths.all() == []
    assert not world.kill_switch.protected


def test_a_limit_of_ours_is_told_at_the_first_attempt_and_waited_for_at_later_ones(world):
    path = world.request()
    world.open(1)
    world.circuits.full = True
    world.paths.handle(CircuitLost(1, CircuitEnd.UNANSWERED), NOW + 60)
    world.paths.handle_deadline(world.paths.next_deadline())
    assert path.state is PathState.REBUILDING
    with pytest.raises(LimitReached):
        world.request(ip_network("198.51.101.1/32"))
    assert world.kill_switch.protected == {BOB}


def test_an_unknown_strategy_does_not_stop_the_rebuilding_of_stored_paths():
    world = World([mix(n) for n in range(1, 6)], selector=unknown_strategy)
    world.paths.adopt_all([PathTerms(BOB, 3, "fancy")], NOW)
    world.paths.handle_deadline(NOW)
    assert world.kill_switch.protected == {BOB}
    assert world.paths.next_deadline() > NOW
    with pytest.raises(ConfigurationError, match="there is no selection"):
        world.request(ip_network("198.51.101.1/32"))


def test_what_was_left_is_adopted_even_if_the_host_is_busy(world):
    world.kill_switch.refuse.add("protect")
    world.paths.adopt_all([PathTerms(BOB, 3, "uniform")], NOW)
    assert [path.state for path in world.paths.all()] == [PathState.REBUILDING]


def test_a_stopping_node_drops_circuits_and_leaves_destinations_blocked(world):
    path, waiting = world.request(), world.request(ip_network("198.51.101.1/32"))
    world.open(path.circuit)
    assert world.paths.leave_blocked(NOW) == 2
    assert sorted(world.circuits.closed) == [1, 2]
    assert waiting.settled
    assert waiting.error is not None
    assert world.kill_switch.protected == {BOB, ip_network("198.51.101.1/32")}
    assert not world.kill_switch.carried
    assert world.paths.next_deadline() == math.inf


def test_what_is_avoided_does_not_outgrow_the_topology_table(world):
    path = world.request()
    for turn in range(60):
        hops = world.circuits.opened[-1].hops
        world.paths.handle(
            CircuitFailed(path.circuit, CircuitRefused("no", hop=1, reason="limit")), NOW + turn
        )
        if path.settled:
            path = world.request()
            continue
        assert hops[0].node_id in path.avoid
        assert len(path.avoid) <= 7
        world.paths.handle_deadline(world.paths.next_deadline())
